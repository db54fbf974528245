"""LiteRT as a decoder on CPUs: it reads the weights at the speed of memory, and starts without TensorFlow.

LiteRT runs all between one attention and the next (see `convert.py`), `attention.py` the attention over the cache.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend import quiet
from gpt_tf2.config import GPT2Config
from gpt_tf2.generation.attention import WIDTH, attend
from gpt_tf2.generation.decoder import State

CHUNK = 128  # tokens of a prompt that are computed at a time: more are no faster, and take more memory


class LiteRTDecoder:
    """Runs a converted model; see `Decoder`.

    The cache of a state is, for each block, what `attend` takes: keys and values, and their scales.

    Args:
        folder: what `convert` wrote.
        precision: float32 or int8, of the matrices and of the cache.
    """

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

    def extend(self, state: State, rows: Sequence[Sequence[int]], last: bool = False) -> np.ndarray:
        counts = [len(row) for row in rows]
        tiles = tiles_for((state.lengths + counts).max())
        state.cache = [grown(array, tiles) for array in state.cache]
        parts = [self._hidden(state, [row[at : at + CHUNK] for row in rows]) for at in range(0, max(counts), CHUNK)]
        hidden = [np.concatenate(of_row)[-1 if last else 0 :] for of_row in zip(*parts, strict=True)]
        return self.head(x=np.concatenate(hidden))["logits"]

    def _hidden(self, state: State, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Appends tokens to the rows of a state that has room for them → hidden states of each row, [tokens, C]."""
        counts = np.array([len(row) for row in rows], "int32")
        places = [np.arange(first, first + count) for first, count in zip(state.lengths, counts, strict=True)]
        found = self.first(x=self.wte[[id for row in rows for id in row]] + self.wpe[np.concatenate(places)])
        for run, cache, scales in zip(self.stages, state.cache[::2], state.cache[1::2], strict=True):
            attended = attend(found["new"].reshape(-1, 3, *self.size), counts, state.lengths, cache, scales)
            found = run(x=found["x"], attended=attended.reshape(-1, self.config.n_embd))
        state.lengths = state.lengths + counts
        return np.split(found["x"], np.cumsum(counts)[:-1])

    def take(self, sources: Sequence[tuple[State, int]]) -> State:
        lengths = np.array([state.lengths[row] for state, row in sources], "int32")
        tiles, cache = tiles_for(lengths.max()), []
        for arrays in zip(*(state.cache for state, _ in sources), strict=True):
            of_rows = (array[row : row + 1, :, :, :tiles] for array, (_, row) in zip(arrays, sources, strict=True))
            cache.append(np.concatenate([grown(array, tiles) for array in of_rows]))
        return State(lengths, cache)

    def put(self, state: State, row: int, source: State) -> None:
        tiles = tiles_for(source.lengths[0])
        state.cache = [grown(array, tiles) for array in state.cache]
        for place, array in zip(state.cache, source.cache, strict=True):
            place[row, :, :, :tiles] = array[0, :, :, :tiles]
        state.lengths = state.lengths.copy()
        state.lengths[row] = source.lengths[0]


def signatures(path: Path) -> list:
    """The graphs of a file in the order of their names: functions of named arrays, to such."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():  # it says that it was created
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
