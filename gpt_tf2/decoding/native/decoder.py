"""The decoder of our own kernels: a step is one compiled function, which reads the weights at memory speed."""

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend.memory import reserve_zeros
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.decoder import NO_IDS, Choice, Decoder, State
from gpt_tf2.decoding.kernels.attention import THREADS
from gpt_tf2.decoding.kernels.network import Inputs, count_room
from gpt_tf2.decoding.kernels.products import TILE
from gpt_tf2.decoding.kernels.steps import Draws, run_network, run_steps
from gpt_tf2.decoding.kernels.work import Crew
from gpt_tf2.decoding.native.packing import open_network, pad_width
from gpt_tf2.decoding.native.rows import RowsFile


class NativeDecoder:
    """A decoder that runs a packed model; see `Decoder`.

    A state's cache is two arrays, as `Inputs` has them: keys and values in tiles, and their scales. They have
    room for whole contexts, of which only what is used takes memory, and for as many sequences as the state has had.

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
        self._network, self._width = open_network(folder), pad_width(config)
        self._room = np.empty(0, "float32")
        self._drawing_room = reserve_zeros((THREADS, self._network.head_columns.shape[2]), "float32")
        self._spare: list[np.ndarray] = []
        self._crew = Crew(THREADS)

    def begin(self) -> State:
        return self._make_state(np.zeros(1, "int64"))

    def extend(self, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        counts = np.array([len(ids) for ids in new])
        shown = counts if wanted is None else np.array(wanted)
        if (shown > counts).any() or (state.lengths + counts).max() > self.config.n_ctx:
            raise ValueError("more logits wanted than tokens given, or more tokens than the context has room for")
        inputs = self._gather(state, new, counts, shown)
        logits = run_network(self._network, inputs, self._crew)
        state.lengths = inputs.lengths + counts
        return logits[:, : self.config.n_vocab]

    def draw(
        self, state: State, last: Sequence[Sequence[int]], choices: Sequence[Choice], uniforms: np.ndarray, end: int
    ) -> np.ndarray:
        counts = np.array([len(ids) for ids in last])
        if counts.max() > 1 or (state.lengths + counts * uniforms.shape[1]).max() > self.config.n_ctx:
            raise ValueError("more tokens than one to begin with, or more to draw than the context has room for")
        inputs = self._gather(state, last, counts, counts)
        tokens, missing = np.full(uniforms.shape, -1), np.full(1, -1)
        draws = Draws(
            np.array(choices, "float64"), uniforms, end, self.config.n_vocab, self.undrawn, self._drawing_room, tokens,
            self._wte.location, missing,
        )  # fmt: skip
        run_steps(self._network, draws, inputs, self._crew)
        if missing[0] >= 0:
            self._wte.report_missing(missing[0])
        state.lengths = inputs.lengths
        return tokens[:, tokens[0] >= 0]

    def _gather(self, state: State, new: Sequence[Sequence[int]], counts: np.ndarray, shown: np.ndarray) -> Inputs:
        """What the kernels need to run new tokens, in a room that grows with the largest number of them."""
        x = self._wte.read([id for ids in new for id in ids], self._width)
        size = count_room(self._network, len(x))
        if len(self._room) < size:
            self._room = reserve_zeros((size,), "float32")
        cache, scales = state.cache
        return Inputs(x, self._wpe, counts, shown, state.lengths.astype("int64"), cache, scales, self._room)

    def take(self, state: State, prefixes: Sequence[tuple[int, int]]) -> State:
        old, lengths = state.cache, np.array([tokens for _, tokens in prefixes], "int64")
        if len(prefixes) <= old[0].shape[1]:
            state.lengths = lengths
            moved = [i for i, (source, tokens) in enumerate(prefixes) if source != i and tokens]
        else:
            state, moved = self._make_state(lengths), list(range(len(prefixes)))
        if moved:
            copy_prefixes(old, state.cache, [prefixes[i][0] for i in moved], moved, int(lengths[moved].max()))
        return state

    def _make_state(self, lengths: np.ndarray) -> State:
        """A state with a cache: an earlier state's if one is large enough, as a system may take long to give memory.

        The cache of a state that nobody refers to any more is kept, one at a time.
        """
        cache, self._spare = self._spare, []
        if not cache or cache[0].shape[1] < len(lengths):
            cache = make_cache(self.config, len(lengths), self.precision)
        state = State(lengths, cache)
        weakref.finalize(state, setattr, self, "_spare", cache).atexit = False
        return state


def make_cache(config: GPT2Config, sequences: int, precision: str) -> list[np.ndarray]:
    """An empty cache and its scales; see `Inputs`."""
    tiles = -(-config.n_ctx // TILE)
    shape = (config.n_layer, sequences, 2, config.n_head, tiles)
    depth = config.n_embd // config.n_head
    return [reserve_zeros((*shape, depth * TILE), precision), reserve_zeros((*shape, TILE), "float32")]


def copy_prefixes(
    old: list[np.ndarray], new: list[np.ndarray], sources: list[int], targets: list[int], tokens: int
) -> None:
    """Copies the tiles of prefixes, of up to so many tokens, from some sequences of a cache to those of another."""
    tiles = -(-tokens // TILE)
    for source, target in zip(old, new, strict=True):
        for block in range(len(source)):  # one by one, so that only one is in memory twice
            target[block, targets, :, :, :tiles] = source[block, sources, :, :, :tiles]
