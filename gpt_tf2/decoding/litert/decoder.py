"""The LiteRT decoder for CPUs: reads the weights at memory speed, and starts without TensorFlow.

A step alternates between two engines. LiteRT runs the stages: all that is between one block's attention and the next
one's (see `graphs.py`). Numba runs the attention over the cache (see `attention.py`).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend.memory import release_pages
from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.decoder import NO_IDS, Decoder, State
from gpt_tf2.decoding.kernels.attention import attend
from gpt_tf2.decoding.kernels.products import TILE


class LiteRTDecoder:
    """A decoder that runs a converted model; see `Decoder`.

    A state's cache has two arrays per block, as `attend` takes them: keys and values in tiles, and their scales.

    Args:
        folder: what `graphs.convert` wrote.
        config: the model's hyper-parameters.
        precision: of the matrices and of the cache, "float32" or "int8".
        undrawn: the ids without a token.
    """

    prefill_chunk = 256  # twice as many are a tenth faster, but hold up the other sequences of a step
    drafter: Decoder | None = None
    loops_on_device = False

    def __init__(self, folder: Path, config: GPT2Config, precision: str, undrawn: np.ndarray = NO_IDS):
        self.config, self.precision, self.undrawn = config, precision, undrawn
        self.name = f"LiteRT on CPU, {precision}"
        self._wte = np.load(folder / "wte.npy", mmap_mode="r")
        self._wpe = np.load(folder / "wpe.npy")
        (self._head,) = load_signatures(folder / "head.tflite")
        files = [load_signatures(path) for path in sorted(folder.glob("stages-*.tflite"))]
        self._first_stage, *self._stages = [stage for stages in files for stage in stages]
        self._head_shape = config.n_head, config.n_embd // config.n_head

    def begin(self) -> State:
        heads, depth = self._head_shape
        cache = np.zeros((1, 2, heads, 1, depth * TILE), self.precision)
        scales = np.zeros((1, 2, heads, 1, TILE), "float32")
        return State(np.zeros(1, "int32"), [array.copy() for _ in self._stages for array in (cache, scales)])

    def extend(self, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        counts = np.array([len(ids) for ids in new], "int32")
        tiles = count_tiles((state.lengths + counts).max())
        for i, array in enumerate(state.cache):  # one by one, so that only one is in memory twice
            state.cache[i] = add_tiles(array, tiles)
        positions = [np.arange(length, length + count) for length, count in zip(state.lengths, counts, strict=True)]
        embedded = self._wte[[id for ids in new for id in ids]] + self._wpe[np.concatenate(positions)]  # [N, C]
        out = self._first_stage(x=embedded)
        for stage, cache, scales in zip(self._stages, state.cache[::2], state.cache[1::2], strict=True):
            attended = attend(out["new"].reshape(-1, 3, *self._head_shape), counts, state.lengths, cache, scales)
            out = stage(x=out["x"], attended=attended.reshape(-1, self.config.n_embd))
        state.lengths = state.lengths + counts
        by_sequence = np.split(out["x"], np.cumsum(counts)[:-1])
        if wanted is not None:
            by_sequence = [part[len(part) - count :] for part, count in zip(by_sequence, wanted, strict=True)]
        hidden = np.concatenate(by_sequence)
        return self._head(x=hidden)["logits"] if len(hidden) else np.zeros((0, self.config.n_vocab), "float32")

    def take(self, state: State, prefixes: Sequence[tuple[int, int]]) -> State:
        sources, lengths = [source for source, _ in prefixes], np.array([tokens for _, tokens in prefixes], "int32")
        if len(prefixes) != len(state.lengths):
            tiles = count_tiles(lengths.max())
            return State(lengths, [array[sources, :, :, :tiles] for array in state.cache])
        moved = [i for i, (source, tokens) in enumerate(prefixes) if source != i and tokens]
        if moved:
            tiles, sources = count_tiles(lengths[moved].max()), [sources[i] for i in moved]
            for array in state.cache:
                array[moved, :, :, :tiles] = array[sources, :, :, :tiles]
        return State(lengths, state.cache)


def load_signatures(path: Path) -> list:
    """The file's signatures, sorted by name, each a function from named arrays to named arrays."""
    from ai_edge_litert.interpreter import Interpreter

    with silence_stderr():  # it reports on stderr that it was created
        interpreter = Interpreter(str(path), num_threads=count_cores())
        interpreter.allocate_tensors()
    release_pages(path.absolute())  # of weights that XNNPACK has copied
    return [interpreter.get_signature_runner(name) for name in sorted(interpreter.get_signature_list())]


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_tiles(positions: int) -> int:
    """How many tiles that many cached positions take, at least 1."""
    return max(1, -(-int(positions) // TILE))


def add_tiles(array: np.ndarray, tiles: int) -> np.ndarray:
    """A cache [B, 2, H, N, …] with N raised to `tiles` if it is less."""
    missing = tiles - array.shape[3]
    if missing <= 0:
        return array
    return np.concatenate([array, np.zeros((*array.shape[:3], missing, *array.shape[4:]), array.dtype)], axis=3)
