"""A model's weights in files, laid out as the kernels read them; see `Network`.

The width of the network is filled up with zeros to whole vectors and heads: W channels of which C are the model's.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, output_matrix
from gpt_tf2.decoding.kernels.network import Network
from gpt_tf2.decoding.kernels.short_floats import HEADER, STEP, shorten
from gpt_tf2.decoding.kernels.tiles import BYTES_AT_ONCE
from gpt_tf2.decoding.kernels.vectors import COLUMNS, HAS_TILES
from gpt_tf2.decoding.rounding import quantize

HEAD_ROWS = 16 * COLUMNS  # of the output matrix that are packed at a time
# A block's matrices, and the tensors that they come from.
MATRICES = {
    "attention_in": "attn/c_attn",
    "attention_out": "attn/c_proj",
    "mlp_in": "mlp/c_fc",
    "mlp_out": "mlp/c_proj",
}


def runs_natively(config: GPT2Config) -> bool:
    """Whether this processor has the instructions for a model, and its heads fill them and overflow no sum."""
    depth = config.n_embd // config.n_head
    return HAS_TILES and depth % 16 == 0 and depth <= 256


def pad_width(config: GPT2Config) -> int:
    """W, a multiple of the vectors' and of the heads' size."""
    whole = math.lcm(COLUMNS, config.n_embd // config.n_head)
    return -(-config.n_embd // whole) * whole


def convert(
    checkpoint: Checkpoint, config: GPT2Config, folder: Path, precision: str, show: Callable[[int, int | None], None]
) -> None:
    """Writes a model's weights to a folder, which must exist. The memory holds one block at a time.

    Args:
        precision: of the matrices, "int8" or "float32".
        show: called with the number of blocks done, and in all.
    """
    for name in ("wte", "wpe"):
        np.save(folder / f"{name}.npy", np.ascontiguousarray(checkpoint.read(name)))
    rest: dict[str, list[np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in [*MATRICES, "head"]}
        for block in range(config.n_layer):
            for name, array in pack_block(checkpoint, config, block, precision).items():
                if name not in files:
                    rest.setdefault(name, []).append(array)
                    continue
                if not block:
                    write_header(files[name], (config.n_layer, *array.shape), array.dtype)
                files[name].write(array.data)
            show(block + 1, config.n_layer)
        for packed, columns in pack_head(checkpoint, config, precision):
            if "head_columns" not in rest:
                write_header(files["head"], (1, -(-config.n_vocab // COLUMNS), packed.shape[1]), packed.dtype)
            files["head"].write(packed.data)
            rest.setdefault("head_columns", []).append(columns)
    rest["head_columns"] = [np.concatenate(fill_up(rest["head_columns"]), axis=1)]
    for name, arrays in rest.items():
        np.save(folder / f"{name}.npy", np.stack(fill_up(arrays)))
    np.save(folder / "final_norm.npy", read_norm(checkpoint, "ln_f"))


def fill_up(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays with as many rows as the longest of them: zeros come before the others'."""
    most = max(map(len, arrays))
    return [np.concatenate([np.zeros((most - len(array), *array.shape[1:]), array.dtype), array]) for array in arrays]


def open_network(folder: Path) -> Network:
    """The network in a folder. Its weights are read from the files when they are used."""
    return Network(*(np.load(folder / f"{name}.npy", mmap_mode="c") for name in Network._fields))


def pack_block(checkpoint: Checkpoint, config: GPT2Config, block: int, precision: str) -> dict[str, np.ndarray]:
    """A block's arrays by their names in `Network`, without the dimension of the blocks."""
    width, channels = pad_width(config), config.n_embd
    arrays = {"norms": np.stack([read_norm(checkpoint, f"h{block}/{name}") for name in ("ln_1", "ln_2")])}
    for name, tensor in MATRICES.items():
        matrix, bias = (checkpoint.read(f"h{block}/{tensor}/{part}") for part in "wb")
        parts = 3 if name == "attention_in" else 1  # queries, keys and values
        missing = width - channels if name != "mlp_in" else 0  # outputs
        matrix, bias = matrix.reshape(len(matrix), parts, -1), bias.reshape(parts, -1)
        inner = len(matrix) if name == "mlp_out" else width
        matrix = np.pad(matrix, ((0, inner - len(matrix)), (0, 0), (0, missing))).reshape(inner, -1)
        arrays[name], arrays[f"{name}_columns"] = pack(
            matrix.T, np.pad(bias, ((0, 0), (0, missing))).ravel(), precision
        )
    return arrays


def pack_head(checkpoint: Checkpoint, config: GPT2Config, precision: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The output matrix, some of its blocks at a time, each with their columns [any, M]."""
    matrix = checkpoint.read(output_matrix(config))
    for first in range(0, len(matrix), HEAD_ROWS):
        rows = matrix[first : first + HEAD_ROWS]
        missing = -len(rows) % COLUMNS, pad_width(config) - rows.shape[1]
        rows = np.pad(rows, [(0, size) for size in missing])
        yield pack(rows, np.zeros(len(rows), "float32"), precision)


def pack(matrix: np.ndarray, bias: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """A matrix [M, K], packed, and its columns [any, M]; see `Network`."""
    outputs, inputs = matrix.shape
    if precision == "float32":
        return pack_floats(matrix.reshape(-1, COLUMNS, inputs).transpose(0, 2, 1), bias)
    matrix, scale = quantize(matrix)
    totals = matrix.sum(axis=1, dtype="int32").astype("float32")
    blocks = matrix.reshape(-1, COLUMNS, inputs // BYTES_AT_ONCE, BYTES_AT_ONCE).transpose(0, 2, 1, 3)
    packed = np.ascontiguousarray(blocks).reshape(outputs // COLUMNS, -1)
    return packed, np.stack([scale, totals, bias])


def pack_floats(blocks: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `pack`, of float32 [blocks, K, COLUMNS].

    It tries with room for COLUMNS weights of a block that stand apart, and with as much as they need if they are more.
    """
    packed = np.empty((len(blocks), HEADER + STEP * blocks.shape[1]), "uint8")
    rest, most = np.zeros((2, len(blocks), COLUMNS), "float32"), COLUMNS
    while True:
        counts = [
            shorten(np.ascontiguousarray(block).view("uint32"), *rows)
            for block, *rows in zip(blocks, packed, *rest, strict=True)
        ]
        if max(counts) <= most:
            break
        most = -(-max(counts) // COLUMNS) * COLUMNS
        rest = np.zeros((2, len(blocks), most), "float32")
    pairs = rest.reshape(2, len(blocks), -1, COLUMNS).transpose(2, 0, 1, 3).reshape(-1, len(bias))
    return packed, np.concatenate([pairs, bias[None]])


def read_norm(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """Gain and bias of a layer norm, [2, C]."""
    return np.stack([checkpoint.read(f"{name}/{part}") for part in "gb"])


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Begins an .npy file, whose values follow."""
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
