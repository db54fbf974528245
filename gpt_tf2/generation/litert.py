"""LiteRT as a decoder on CPUs: it reads the weights at the speed of memory, and starts without TensorFlow.

A model is a few converted graphs (see `convert.py`), run one after another. The caches are inputs of them, whose memory
this module writes into: a step copies nothing but the new tokens' keys and values.
"""

import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend import quiet
from gpt_tf2.config import GPT2Config
from gpt_tf2.generation.decoder import State, slots_for

CHUNK = 512  # tokens of a prompt that are computed at a time
HIDDEN = np.float32(-1e9)  # added to the scores of empty slots


class Graph:
    """A converted graph whose inputs may have any size."""

    def __init__(self, path: Path):
        from ai_edge_litert.interpreter import Interpreter

        with quiet():  # it says that it was created
            self.interpreter = Interpreter(str(path), num_threads=threads())
            self.interpreter.allocate_tensors()
        runner = self.interpreter.get_signature_runner()
        self.inputs = {name: found["index"] for name, found in runner.get_input_details().items()}
        self.outputs = {name: found["index"] for name, found in runner.get_output_details().items()}
        self.shapes: dict[str, tuple[int, ...]] = {}
        # Keys and values are called `k003` and `v003`, as inputs and as outputs; here block after block.
        cached = (name for name in self.inputs if name[1:].isdigit())
        self.cached = sorted(cached, key=lambda name: (name[1:], name[0]))

    def resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Gives inputs their sizes. What the inputs held is lost if one of them changes."""
        changed = {name: shape for name, shape in shapes.items() if self.shapes.get(name) != shape}
        for name, shape in changed.items():
            self.interpreter.resize_tensor_input(self.inputs[name], shape)
        if changed:
            self.interpreter.allocate_tensors()
            self.shapes |= changed

    def input(self, name: str) -> np.ndarray:
        """An input's own memory; let go of it before the graph runs."""
        return self.interpreter.tensor(self.inputs[name])()

    def output(self, name: str) -> np.ndarray:
        """An output's own memory; let go of it before the graph runs again."""
        return self.interpreter.tensor(self.outputs[name])()

    def run(self) -> None:
        self.interpreter.invoke()


class Network:
    """The graphs of the blocks, with the cache of one state in their inputs."""

    def __init__(self, paths: Sequence[Path]):
        self.graphs = [Graph(path) for path in paths]
        self.held: weakref.ref[State] | None = None

    def state(self) -> State | None:
        """The state whose cache is here, if it is still of use to anybody."""
        return self.held() if self.held else None

    def caches(self) -> list[np.ndarray]:
        """The memory of the cache, as in `State`."""
        return [graph.input(name) for graph in self.graphs for name in graph.cached]

    def hold(self, state: State, count: int, size: tuple[int, int]) -> None:
        """Makes this the place of a state's cache, and the graphs ready for `count` tokens more in each of its rows."""
        rows = len(state.lengths)
        if self.state() is state and self.graphs[0].shapes["x"][1] == count:
            return
        self.release()
        slots = state.cache[0].shape[2]
        heads, depth = size
        shapes = {"x": (rows, count, heads, depth), "bias": (rows, 1, 1, slots), "new_bias": (1, 1, count, count)}
        for graph in self.graphs:
            cached = dict.fromkeys(graph.cached, (rows, heads, slots, depth))
            graph.resize(shapes | cached)
            graph.input("new_bias")[:] = np.where(np.tri(count, dtype=bool), np.float32(0), HIDDEN)
        for place, array in zip(self.caches(), state.cache, strict=True):
            place[:] = array
        state.cache = []
        self.held = weakref.ref(state)

    def release(self, slots: int = 0) -> None:
        """Gives the state its cache back, with at least so many slots."""
        state = self.state()
        if state is not None:
            state.cache = [grown(array, max(slots, array.shape[2])) for array in self.caches()]
        self.held = None

    def run(self, x: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """[B, T, H, D] → the same shape; the new keys and values are in the graphs' outputs."""
        for graph in self.graphs:
            graph.input("x")[:] = x
            graph.input("bias")[:] = bias
            graph.run()
            x = graph.output("hidden").copy()
        return x

    def new_rows(self) -> list[np.ndarray]:
        """The keys and values of the tokens that ran last, as in `State`, [B, H, T, D]."""
        return [graph.output(name) for graph in self.graphs for name in graph.cached]


class LiteRTDecoder:
    """Runs a converted model; see `Decoder`.

    Args:
        folder: what `convert` wrote.
    """

    def __init__(self, folder: Path, config: GPT2Config, precision: str):
        self.config, self.name = config, f"LiteRT on CPU, {precision}"
        self.wte = np.load(folder / "wte.npy", mmap_mode="r")
        self.wpe = np.load(folder / "wpe.npy")
        self.paths = sorted(folder.glob("blocks-*.tflite"))
        self.networks = [Network(self.paths)]
        self.head = Graph(folder / "head.tflite")
        self.size = config.n_head, config.n_embd // config.n_head

    def begin(self) -> State:
        heads, depth = self.size
        empty = np.zeros((1, heads, slots_for(0), depth), "float32")
        return State(np.zeros(1, "int32"), [empty] * (2 * self.config.n_layer))

    def extend(self, state: State, tokens: np.ndarray, last: bool = False) -> np.ndarray:
        if tokens.shape[1] > CHUNK:
            cuts = range(0, tokens.shape[1], CHUNK)
            parts = [self.extend(state, tokens[:, at : at + CHUNK], last) for at in cuts]
            return parts[-1] if last else np.concatenate(parts, axis=1)
        rows, count = tokens.shape
        network = self._network(state)
        network.hold(state, count, self.size)
        before = state.lengths
        places = before[:, None] + np.arange(count, dtype="int32")
        x = self.wte[tokens] + self.wpe[np.minimum(places, self.config.n_ctx - 1)]
        slots = network.graphs[0].shapes["bias"][3]
        bias = np.where(np.arange(slots) < before[:, None], np.float32(0), HIDDEN)[:, None, None]
        x = network.run(x.reshape(rows, count, *self.size), bias)
        needed = slots_for(before.max() + count)
        if needed > slots:
            network.release(needed)
        for cache, new in zip(self._cache(state), network.new_rows(), strict=True):
            for row, at in enumerate(before):
                cache[row, :, at : at + count] = new[row]
        del cache, new  # before anything runs
        state.lengths = before + np.int32(count)
        x = x.reshape(rows, count, self.config.n_embd)
        return self._logits(x[:, -1:] if last else x)

    def take(self, sources: Sequence[tuple[State, int]]) -> State:
        lengths = np.array([state.lengths[row] for state, row in sources], "int32")
        heads, depth = self.size
        shape = (len(sources), heads, slots_for(lengths.max()), depth)
        cache = [np.zeros(shape, "float32") for _ in range(2 * self.config.n_layer)]
        for i, (state, row) in enumerate(sources):
            for new, old in zip(cache, self._cache(state), strict=True):
                new[i, :, : lengths[i]] = old[row, :, : lengths[i]]
        return State(lengths, cache)

    def put(self, state: State, row: int, source: State) -> None:
        length = source.lengths[0]
        slots = slots_for(length)
        if slots > self._cache(state)[0].shape[2]:
            network = self._holding(state)
            if network:
                network.release(slots)
            else:
                state.cache = [grown(array, slots) for array in state.cache]
        for place, array in zip(self._cache(state), self._cache(source), strict=True):
            place[row, :, :length] = array[0, :, :length]
        state.lengths = state.lengths.copy()
        state.lengths[row] = length

    def _cache(self, state: State) -> list[np.ndarray]:
        """A state's cache, wherever it is; let go of it before anything runs."""
        network = self._holding(state)
        return network.caches() if network else state.cache

    def _holding(self, state: State) -> Network | None:
        return next((network for network in self.networks if network.state() is state), None)

    def _network(self, state: State) -> Network:
        """Where a state runs: where its cache is, or where no batch is in the midst of its work."""
        holding = self._holding(state)
        if holding:
            return holding
        for network in self.networks:
            other = network.state()
            if other is None or len(other.lengths) == 1:
                return network
        if len(self.networks) == 1:
            self.networks.append(Network(self.paths))
        return self.networks[-1]

    def _logits(self, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(-1, self.config.n_embd)
        self.head.resize({"x": flat.shape})
        self.head.input("x")[:] = flat
        self.head.run()
        return self.head.output("logits").reshape(*x.shape[:-1], -1).copy()


def threads() -> int:
    """As many as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def grown(array: np.ndarray, slots: int) -> np.ndarray:
    """A copy of [B, H, S, D] with `slots` slots."""
    rows, heads, old, depth = array.shape
    result = np.zeros((rows, heads, slots, depth), array.dtype)
    result[:, :, :old] = array
    return result
