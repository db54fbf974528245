"""The whole network as one compiled function, which runs on all threads at once; see `work.py`.

Letters in shapes: B sequences, N new tokens of all of them, L blocks, W channels, H heads, D size of a head, V
tokens of the vocabulary, K inputs and M outputs of a matrix.
"""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from gpt_tf2.backend.numba_kernels import JIT_OPTIONS, compile_kernel
from gpt_tf2.decoding.kernels.attention import THREADS, attend_to_floats, make_float_room
from gpt_tf2.decoding.kernels.byte_attention import attend_to_bytes, make_byte_room
from gpt_tf2.decoding.kernels.dense import FEW, is_in_bytes, multiply, prepare
from gpt_tf2.decoding.kernels.pointers import Kinds, find_address, make_call
from gpt_tf2.decoding.kernels.products import TILE
from gpt_tf2.decoding.kernels.tiles import ADD, GELU, WRITE, Product
from gpt_tf2.decoding.kernels.vectors import COLUMNS

OPTIONS: Any = JIT_OPTIONS
PRECISIONS = "int8", "float32"
PHASES = 9  # of a block
HEAD_PHASES = 2


class Network(NamedTuple):
    """A network's weights. W is a multiple of COLUMNS and of D, so that the model's C channels may not fill it.

    norms: float32 [L, 2, 2, C], gain and bias of a block's two layer norms.
    final_norm: float32 [2, C].
    attention_in, attention_out, mlp_in, mlp_out: int8 or, for float32, uint8 [L, M / COLUMNS, any], a block's matrices
        [W, 3·W], [W, W], [W, 4·C] and [4·C, W], packed; see `tiles.py`.
    head: the same of one matrix [W, V], V filled up to whole blocks.
    …_columns: float32 [L, 3, M] in int8: each column's scale, the sum of its integers, and its bias. In float32
        [L, 1 + 2·any, M]: the last row is the bias. Before it come pairs of rows. Their parts for the columns of a
        block hold the weights that stand apart there, with zeros after the last, and their indices in the block.
    """

    norms: np.ndarray
    final_norm: np.ndarray
    attention_in: np.ndarray
    attention_in_columns: np.ndarray
    attention_out: np.ndarray
    attention_out_columns: np.ndarray
    mlp_in: np.ndarray
    mlp_in_columns: np.ndarray
    mlp_out: np.ndarray
    mlp_out_columns: np.ndarray
    head: np.ndarray
    head_columns: np.ndarray


class Inputs(NamedTuple):
    """New tokens of several sequences, and the memory that they are run in.

    x: float32 [N, W], the tokens' embeddings, sequence by sequence. Changed in place.
    wpe: float32 [n_ctx, C], the positions' embeddings, which are added first.
    counts: int64 [B], how many new tokens each sequence has.
    shown: int64 [B], after how many of its last new tokens logits are wanted.
    lengths: int64 [B], how many positions of each are cached. There must be room for the new ones.
    cache: int8 or float32, as the matrices, [L, B or more, 2, H, tiles, D·TILE], keys and values. Changed in place.
    scales: float32 [L, B, 2, H, tiles, TILE]; see `attend` in `attention.py`. Changed in place.
    room: float32, at least `count_room(network, N)`, to work in. It should begin with a page of the memory.
    """

    x: np.ndarray
    wpe: np.ndarray
    counts: np.ndarray
    shown: np.ndarray
    lengths: np.ndarray
    cache: np.ndarray
    scales: np.ndarray
    room: np.ndarray


class Batch(NamedTuple):
    """What the threads share that run new tokens.

    x: float32 [N, W], the embeddings of tokens and positions. Becomes the last block's output.
    wpe, counts, shown, lengths, cache, scales: see `Inputs`.
    firsts: int64 [B], the index in `x` of each sequence's first token.
    wanted: int64, the rows of `x` after which logits are wanted.
    logits: float32 [wanted, V], V filled up to whole blocks.
    left, factors: [threads, …], see `prepare`.
    new: float32 [N, 3, W / D, D], attended: float32 [N, W], hidden: float32 [N, 4·C], room for what lies between.
    rooms: float32 [threads, COLUMNS times the most inputs], see `Product`.
    """

    x: np.ndarray
    wpe: np.ndarray
    counts: np.ndarray
    shown: np.ndarray
    firsts: np.ndarray
    lengths: np.ndarray
    cache: np.ndarray
    scales: np.ndarray
    wanted: np.ndarray
    logits: np.ndarray
    left: np.ndarray
    factors: np.ndarray
    new: np.ndarray
    attended: np.ndarray
    hidden: np.ndarray
    rooms: np.ndarray


class Addresses(NamedTuple):
    """Where the code of kernels is that call each other by address."""

    attention: int
    share: int
    choose: int
    run: int


def count_room(network: Network, rows: int) -> int:
    """How many float32 numbers of room the network needs to run `rows` tokens."""
    width, hidden = network.attention_out_columns.shape[2], network.mlp_in_columns.shape[2]
    most = max(width, hidden)
    return rows * (THREADS * (most + 2) + 4 * width + hidden) + THREADS * most * COLUMNS


@register_jitable
def count_phases(network: Network) -> int:
    """How many phases a run of the network has; see `work.py`."""
    return len(network.norms) * PHASES + HEAD_PHASES


@functools.cache
def find_attention(precision: str) -> int:
    """The address of `run_attention` for a network of float32 or int8."""
    return find_address(run_attention, attention_kinds(precision), types.none)


def attention_kinds(precision: str) -> Kinds:
    """Numba's types of what `run_attention` takes."""
    numbers = array_kind("float32", 1)
    room = numbers if precision == "int8" else types.Tuple([array_kind("float32", 2), numbers, numbers])
    return list_kinds(precision)[1], types.int64, room, array_kind("int64", 1), types.int64, types.int64, types.int64


@functools.cache
def find_share(precision: str) -> int:
    """The address of `run_share` for a network of float32 or int8."""
    return find_address(run_share, share_kinds(precision), types.none)


def share_kinds(precision: str) -> Kinds:
    """Numba's types of what `run_share` takes."""
    integer = types.int64
    return integer, *list_kinds(precision), array_kind("int64", 1), integer, integer


def list_kinds(precision: str) -> tuple[types.Type, types.Type]:
    """Numba's types of a `Network` and a `Batch`."""
    floats, indices = "float32", array_kind("int64", 1)
    packed = array_kind("int8" if precision == "int8" else "uint8", 3)
    network = [array_kind(floats, 4), array_kind(floats, 2), *[packed, array_kind(floats, 3)] * 5]
    batch = [*[array_kind(floats, 2)] * 2, *[indices] * 4, array_kind(precision, 6), array_kind(floats, 6)]
    batch += [indices, array_kind(floats, 2), array_kind(precision, 2)]
    batch += [array_kind(floats, dimensions) for dimensions in (3, 4, 2, 2, 2)]
    return types.NamedTuple(network, Network), types.NamedTuple(batch, Batch)


def inputs_kind(precision: str) -> types.Type:
    """Numba's type of `Inputs`."""
    floats, indices = "float32", array_kind("int64", 1)
    inputs = [*[array_kind(floats, 2)] * 2, *[indices] * 3, array_kind(precision, 6), array_kind(floats, 6)]
    return types.NamedTuple([*inputs, array_kind(floats, 1)], Inputs)


def array_kind(kind: str, dimensions: int) -> types.Array:
    """Numba's type of an array without gaps."""
    return types.Array(numba.from_dtype(np.dtype(kind)), dimensions, "C")


def attend(
    new: np.ndarray,
    counts: np.ndarray,
    shown: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    room: Any,
    out: np.ndarray,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> None:
    """A thread's share of the attention of one block, for kernels.

    Args:
        shown: int64 [B], of how many of each sequence's last new tokens to compute it.
        room: of `make_room`. out: [N, W / D, D], written.
    """


@overload(attend, jit_options=OPTIONS)
def choose_attention(
    new: np.ndarray,
    counts: np.ndarray,
    shown: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    room: Any,
    out: np.ndarray,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> Any:
    """The function that Numba compiles for it: the arguments are types here."""
    return attend_to_bytes if is_in_bytes(cache) else attend_to_floats


def make_room(cache: np.ndarray) -> tuple:
    """What a thread's `attend` works in, for kernels."""
    raise NotImplementedError


@overload(make_room, jit_options=OPTIONS)
def choose_room(cache: np.ndarray) -> Any:
    """The function that Numba compiles for it."""
    return make_byte_room if is_in_bytes(cache) else make_float_room


@compile_kernel
def project(
    rows: np.ndarray,
    chosen: np.ndarray,
    norm: np.ndarray,
    product: Product,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> None:
    """A thread's share of two phases: prepares rows, then multiplies them. See `prepare` and `multiply`."""
    prepare(rows, chosen, norm, product.left, product.factors, counters, phase, thread, threads)
    multiply(product, counters, phase + 1, thread, threads)


@compile_kernel
def run_attention(
    batch: Batch, block: int, room: Any, counters: np.ndarray, phase: int, thread: int, threads: int
) -> None:
    """A thread's share of the attention of a block. room: of `make_room`."""
    # Of what the last block gives, only the rows wanted are used. Its keys and values are needed of all.
    shown = batch.shown if block + 1 == len(batch.cache) else batch.counts
    heads = batch.attended.reshape(len(batch.x), batch.new.shape[2], batch.new.shape[3])
    attend(
        batch.new, batch.counts, shown, batch.firsts, batch.lengths, batch.cache[block], batch.scales[block], room,
        heads, counters, phase, thread, threads,
    )  # fmt: skip


call_attention = make_call(run_attention, types.none, lambda: [attention_kinds(precision) for precision in PRECISIONS])


@compile_kernel
def run_share(attention: int, network: Network, batch: Batch, counters: np.ndarray, thread: int, threads: int) -> None:
    """A thread's share of a run of the network. attention: the address of `run_attention`."""
    x, attended, rows = batch.x, batch.attended, len(batch.x)
    room, width, inner = batch.rooms[thread], x.shape[1], batch.hidden.shape[1]
    phase: Any = np.int64(0)  # not a literal, for which Numba would compile anew
    every, no_norm, attention_room = np.arange(rows), np.empty((0, 0), np.float32), make_room(batch.cache)
    projected = batch.new.reshape(rows, -1)
    for block in range(len(network.norms)):
        is_last = block + 1 == len(network.norms)
        upcoming = network.head[0] if is_last else network.attention_in[block + 1]
        norms = network.norms[block]
        left, factors = find_room(batch, rows, thread)
        attention_in = Product(
            left[: rows * width].reshape(rows, width), factors, network.attention_in[block],
            network.attention_in_columns[block], projected, every, WRITE, network.attention_out[block], room,
        )  # fmt: skip
        project(x, every, norms[0], attention_in, counters, phase, thread, threads)
        call_attention(attention, (batch, np.int64(block), attention_room, counters, phase + 2, thread, threads))
        chosen = batch.wanted if is_last else every
        count = len(chosen)
        if count == 0:
            return
        left, factors = find_room(batch, count, thread)
        narrow, wide = left[: count * width].reshape(count, width), left[: count * inner].reshape(count, inner)
        attention_out = Product(
            narrow, factors, network.attention_out[block], network.attention_out_columns[block], x, chosen,
            ADD, network.mlp_in[block], room,
        )  # fmt: skip
        mlp_in = Product(
            narrow, factors, network.mlp_in[block], network.mlp_in_columns[block], batch.hidden, every[:count],
            GELU, network.mlp_out[block], room,
        )  # fmt: skip
        mlp_out = Product(
            wide, factors, network.mlp_out[block], network.mlp_out_columns[block], x, chosen,
            ADD, upcoming, room,
        )  # fmt: skip
        project(attended, chosen, no_norm, attention_out, counters, phase + 3, thread, threads)
        project(x, chosen, norms[1], mlp_in, counters, phase + 5, thread, threads)
        project(batch.hidden, every[:count], no_norm, mlp_out, counters, phase + 7, thread, threads)
        phase += PHASES
    count = len(batch.wanted)
    left, factors = find_room(batch, count, thread)
    head = Product(
        left[: count * width].reshape(count, width), factors, network.head[0], network.head_columns[0], batch.logits,
        every[:count], WRITE, network.attention_in[0], room,
    )  # fmt: skip
    project(x, batch.wanted, network.final_norm, head, counters, phase, thread, threads)


@compile_kernel
def find_room(batch: Batch, rows: int, thread: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a thread prepares its share of some rows, and their factors. Where they are FEW, no other writes there."""
    own = thread if rows <= FEW else 0
    return batch.left[own], batch.factors[own]


call_share = make_call(run_share, types.none, lambda: [share_kinds(precision) for precision in PRECISIONS])


@compile_kernel
def make_batch(network: Network, inputs: Inputs, threads: int) -> Batch:
    """Makes the `Batch` that so many threads share, and adds the positions' embeddings to its rows; for kernels."""
    x, wpe, counts, shown, lengths, cache, scales, room = inputs
    rows, width, depth, inner = len(x), x.shape[1], cache.shape[5] // TILE, network.mlp_in_columns.shape[2]
    ends = np.cumsum(rows * np.array([3 * width, width, inner, threads * max(width, inner), threads * 2]))
    new = room[: ends[0]].reshape(rows, 3, width // depth, depth)
    attended, hidden = room[ends[0] : ends[1]].reshape(rows, width), room[ends[1] : ends[2]].reshape(rows, inner)
    left = room[ends[2] : ends[3]].view(cache.dtype).reshape(threads, -1)
    factors = room[ends[3] : ends[4]].reshape(threads, rows, 2)
    rooms = room[ends[4] :][: threads * max(width, inner) * COLUMNS].reshape(threads, -1)
    for row in range(rows):
        for i in range(cache.shape[3] * depth, width):
            attended[row, i] = 0
    firsts, wanted, next_wanted = np.cumsum(counts) - counts, np.empty(shown.sum(), np.int64), 0
    logits = np.empty((len(wanted), network.head_columns.shape[2]), np.float32)
    for sequence in range(len(counts)):
        for t in range(counts[sequence]):
            row = firsts[sequence] + t
            for i in range(wpe.shape[1]):
                x[row, i] += wpe[lengths[sequence] + t, i]
            if t >= counts[sequence] - shown[sequence]:
                wanted[next_wanted] = row
                next_wanted += 1
    return Batch(
        x,
        wpe,
        counts,
        shown,
        firsts,
        lengths,
        cache,
        scales,
        wanted,
        logits,
        left,
        factors,
        new,
        attended,
        hidden,
        rooms,
    )
