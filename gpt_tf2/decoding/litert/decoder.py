"""LiteRT as a decoder on CPUs: it reads the weights at the speed of memory, and starts without TensorFlow.

LiteRT runs all between one attention and the next (see `convert.py`), `attention.py` the attention over the cache.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.decoder import State
from gpt_tf2.decoding.litert.attention import WIDTH, attend


class LiteRTDecoder:
    """Runs a converted model; see `Decoder`.

    The cache of a state is, for each block, what `attend` takes: keys and values, and their scales.

    Args:
        folder: what `convert` wrote.
        precision: float32 or int8, of the matrices and of the cache.
    """

    prefill_chunk = 128  # more are no faster, and take more memory

    def __init__(self, folder: Path, config: GPT2Config, precision: str):
        self.config, self.precision, self.name = config, precision, f"LiteRT on CPU, {precision}"
        self.wte = np.load(folder / "wte.npy", mmap_mode="r")
        self.wpe = np.load(folder / "wpe.npy")
        files = [signatures(path) for path in sorted(folder.glob("stages-*.tflite"))]
        self.first, *self.stages = [run for runs in files for run in runs]
        (self.head,) = signatures(folder / "head.tflite")
        self.size = config.n_head, config.n_embd // config.n_head

    def begin(self) -> State:
        heads, depth = self.size
        cache = np.zeros((1, 2, heads, 1, depth * WIDTH), self.precision)
        scales = np.zeros((1, 2, heads, 1, WIDTH), "float32")
        return State(np.zeros(1, "int32"), [array.copy() for _ in self.stages for array in (cache, scales)])

    def extend(self, state: State, rows: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        counts = np.array([len(row) for row in rows], "int32")
        tiles = tiles_for((state.lengths + counts).max())
        for i, array in enumerate(state.cache):
            state.cache[i] = grown(array, tiles)
        places = [np.arange(first, first + count) for first, count in zip(state.lengths, counts, strict=True)]
        found = self.first(x=self.wte[[id for row in rows for id in row]] + self.wpe[np.concatenate(places)])
        for run, cache, scales in zip(self.stages, state.cache[::2], state.cache[1::2], strict=True):
            attended = attend(found["new"].reshape(-1, 3, *self.size), counts, state.lengths, cache, scales)
            found = run(x=found["x"], attended=attended.reshape(-1, self.config.n_embd))
        state.lengths = state.lengths + counts
        of_rows = np.split(found["x"], np.cumsum(counts)[:-1])
        if wanted is not None:
            of_rows = [part[len(part) - count :] for part, count in zip(of_rows, wanted, strict=True)]
        hidden = np.concatenate(of_rows)
        return self.head(x=hidden)["logits"] if len(hidden) else np.zeros((0, self.config.n_vocab), "float32")

    def take(self, state: State, places: Sequence[tuple[int, int]]) -> State:
        sources, lengths = [row for row, _ in places], np.array([tokens for _, tokens in places], "int32")
        if len(places) != len(state.lengths):
            tiles = tiles_for(lengths.max())
            return State(lengths, [array[sources, :, :, :tiles] for array in state.cache])
        moved = [i for i, (row, tokens) in enumerate(places) if row != i and tokens]
        if moved:
            tiles, sources = tiles_for(lengths[moved].max()), [sources[i] for i in moved]
            for array in state.cache:
                array[moved, :, :, :tiles] = array[sources, :, :, :tiles]
        return State(lengths, state.cache)


def signatures(path: Path) -> list:
    """The graphs of a file in the order of their names: functions of named arrays, to such."""
    from ai_edge_litert.interpreter import Interpreter

    with silence_stderr():  # it says that it was created
        interpreter = Interpreter(str(path), num_threads=threads())
        interpreter.allocate_tensors()
    return [interpreter.get_signature_runner(name) for name in sorted(interpreter.get_signature_list())]


def threads() -> int:
    """As many as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tiles_for(tokens: int) -> int:
    """How many tiles of slots so many tokens take."""
    return max(1, -(-int(tokens) // WIDTH))


def grown(array: np.ndarray, tiles: int) -> np.ndarray:
    """[B, 2, H, N, …] with at least so many tiles."""
    missing = tiles - array.shape[3]
    if missing <= 0:
        return array
    return np.concatenate([array, np.zeros((*array.shape[:3], missing, *array.shape[4:]), array.dtype)], axis=3)
