"""A model in LiteRT without a conversion: a stage at a time is written, run and removed.

So float32, which int8 is compared with, takes the memory of a stage and not of a model.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.memory import trim_heap
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.kernels.attention import TILE, attend
from gpt_tf2.decoding.litert.decoder import count_tiles, load_signatures
from gpt_tf2.decoding.litert.graphs import HEAD, name_stage, write_graphs
from gpt_tf2.decoding.sample_perplexity import PIECE


def stream_windows(
    checkpoint: Checkpoint, config: GPT2Config, windows: np.ndarray, folder: Path
) -> Iterator[np.ndarray]:
    """The float32 logits [N, n_vocab] after each token of each window [B, T] but its last, some at a time.

    folder: of a conversion, for its embeddings; and for the stage that runs.
    """
    ids = windows[:, :-1]
    inputs = {"x": embed(ids, folder).reshape(-1, config.n_embd)}
    for number in range(config.n_layer + 1):
        with open_graph(checkpoint, config, name_stage(number), folder) as stage:
            out = stage(**inputs)
        inputs = {"x": out["x"]}
        if "new" in out:
            inputs["attended"] = attend_alone(out["new"], len(ids), config)
    trim_heap()  # the head may be a third of the model
    with open_graph(checkpoint, config, HEAD, folder) as head:
        for first in range(0, ids.size, PIECE):
            yield head(x=inputs["x"][first : first + PIECE])["logits"]


def embed(ids: np.ndarray, folder: Path) -> np.ndarray:
    """The embeddings [B, T, C] of sequences [B, T]. Returns with the files closed, whose pages take memory."""
    wte, wpe = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("wte", "wpe"))
    return wte[ids] + wpe[: ids.shape[1]]


@contextlib.contextmanager
def open_graph(checkpoint: Checkpoint, config: GPT2Config, name: str, folder: Path) -> Iterator[Callable[..., Any]]:
    """One of a model's graphs, in float32, as a function from named arrays to named arrays."""
    path = folder / "streamed.tflite"
    write_graphs(path, checkpoint, config, "float32", [name])
    try:
        (graph,) = load_signatures(path)
        yield graph
    finally:
        path.unlink()


def attend_alone(new: np.ndarray, sequences: int, config: GPT2Config) -> np.ndarray:
    """Attends within sequences of equal length, from their first tokens on.

    Args:
        new: float32 [N, 3·C], queries, keys and values, sequence by sequence.

    Returns:
        Float32 [N, C].
    """
    heads, depth = config.n_head, config.n_embd // config.n_head
    lengths, counts = np.zeros(sequences, "int32"), np.full(sequences, len(new) // sequences, "int32")
    tiles = count_tiles(counts[0])
    cache = np.zeros((sequences, 2, heads, tiles, depth * TILE), "float32")
    scales = np.zeros((sequences, 2, heads, tiles, TILE), "float32")
    attended = attend(new.reshape(-1, 3, heads, depth), counts, lengths, cache, scales)
    return attended.reshape(-1, config.n_embd)
