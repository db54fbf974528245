"""LiteRT's decoder of a checkpoint."""

from pathlib import Path

from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.litert.decoder import LiteRTDecoder
from gpt_tf2.decoding.litert.graphs import convert


def convert_to_litert(path: Path, config: GPT2Config, folder: Path) -> LiteRTDecoder:
    """Converts a checkpoint into a folder and opens it, in float32."""
    convert(open_checkpoint(path), config, folder, False, lambda done, total: None)
    return LiteRTDecoder(folder, config, "float32")
