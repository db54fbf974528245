"""The decoder of our own kernels: a step is one compiled function, which reads the weights at memory speed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend.memory import reserve_zeros
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.decoder import NO_IDS, Decoder, State
from gpt_tf2.decoding.kernels.attention import TILE
from gpt_tf2.decoding.kernels.network import run_network
from gpt_tf2.decoding.native.packing import open_network, pad_width
from gpt_tf2.decoding.native.rows import RowsFile


class NativeDecoder:
    """A decoder that runs a packed model; see `Decoder`.

    A state's cache is two arrays, as `run_network` takes them: keys and values in tiles, and their scales. They have
    room for whole contexts, of which only what is used takes memory.

    Args:
        folder: what `packing.convert` wrote.
        config: the model's hyper-parameters.
        precision: of the matrices and of the cache, "float32" or "int8".
        undrawn: the ids without a token.
    """

    prefill_chunk = 256
    loops_on_device = False
    drafter: Decoder | None = None

    def __init__(self, folder: Path, config: GPT2Config, precision: str, undrawn: np.ndarray = NO_IDS):
        self.config, self.precision, self.undrawn = config, precision, undrawn
        self.name = f"native on CPU, {precision}"
        self._wte = RowsFile(folder / "wte.npy")
        self._wpe = np.load(folder / "wpe.npy")
        self._network = open_network(folder)

    def begin(self) -> State:
        return State(np.zeros(1, "int64"), make_cache(self.config, 1, self.precision))

    def extend(self, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        counts = np.array([len(ids) for ids in new])
        ends = np.cumsum(counts)
        shown = counts if wanted is None else wanted
        rows = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, shown, strict=True)])
        ids = [id for ids in new for id in ids]
        positions = np.arange(len(ids)) + np.repeat(state.lengths + counts - ends, counts)
        x = np.zeros((len(ids), pad_width(self.config)), "float32")
        np.add(self._wte.read(ids), self._wpe[positions], out=x[:, : self.config.n_embd])
        cache, scales = state.cache
        logits = run_network(self._network, x, counts, state.lengths, cache, scales, rows)
        state.lengths = state.lengths + counts
        return logits[:, : self.config.n_vocab]

    def take(self, state: State, prefixes: Sequence[tuple[int, int]]) -> State:
        sources, lengths = (np.array([prefix[i] for prefix in prefixes], "int64") for i in range(2))
        if len(prefixes) != len(state.lengths):
            cache = make_cache(self.config, len(prefixes), self.precision)
            copy_prefixes(state.cache, cache, sources, np.arange(len(prefixes)), lengths)
            return State(lengths, cache)
        moved = np.flatnonzero((sources != np.arange(len(sources))) & (lengths > 0))
        copy_prefixes(state.cache, state.cache, sources[moved], moved, lengths[moved])
        return State(lengths, state.cache)


def make_cache(config: GPT2Config, sequences: int, precision: str) -> list[np.ndarray]:
    """An empty cache and its scales; see `run_network`."""
    tiles = -(-config.n_ctx // TILE)
    shape = (config.n_layer, sequences, 2, config.n_head, tiles)
    depth = config.n_embd // config.n_head
    return [reserve_zeros((*shape, depth * TILE), precision), reserve_zeros((*shape, TILE), "float32")]


def copy_prefixes(
    old: list[np.ndarray], new: list[np.ndarray], sources: np.ndarray, targets: np.ndarray, lengths: np.ndarray
) -> None:
    """Copies the tiles of prefixes, of so many tokens, between the sequences of two caches, or of one."""
    tiles = -(-int(max(lengths, default=0)) // TILE)
    for source, target in zip(old, new, strict=True):
        for block in range(len(source) if tiles else 0):  # one by one, so that only one is in memory twice
            target[block, targets, :, :, :tiles] = source[block, sources, :, :, :tiles]
