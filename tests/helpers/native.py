"""Our own kernels' decoder of a checkpoint."""

from pathlib import Path

from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.native.decoder import NativeDecoder
from gpt_tf2.decoding.native.packing import convert


def convert_to_native(path: Path, config: GPT2Config, folder: Path, precision: str = "float32") -> NativeDecoder:
    """Converts a checkpoint into a folder and opens it."""
    convert(open_checkpoint(path), config, folder, precision, lambda done, total: None)
    return NativeDecoder(folder, config, precision)
