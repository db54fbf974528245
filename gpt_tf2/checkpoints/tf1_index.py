"""A reader of a TF1 checkpoint's index.

The index is a table of LevelDB whose blocks are not compressed (TensorFlow compresses none). Its values are messages
of tensorflow/core/protobuf/tensor_bundle.proto: a header under the empty name, then one entry for each tensor.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpt_tf2.errors import InputError

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48  # bytes
MOST_BYTES = 1 << 22  # of an index; that of 1558M has 24 kB
LONGEST_NAME = 1024  # bytes
# DataType in tensorflow/core/framework/types.proto → bytes of a number. Of text only the place is checked.
FLOATS = {1: "float32", 2: "float64", 14: "bfloat16", 19: "float16"}
SIZES = {1: 4, 2: 8, 14: 2, 19: 2} | {3: 4, 4: 1, 5: 2, 6: 1, 7: 0, 8: 8, 9: 8, 10: 1, 17: 2, 22: 4, 23: 8}
TEXT = 7
Message = dict[int, list[int | bytes]]  # field number → values


class Entry(NamedTuple):
    """A tensor.

    dtype: of floating-point numbers; empty for others.
    size: in bytes.
    end: where in the data it ends.
    checksum: masked CRC-32C.
    """

    shape: tuple[int, ...]
    dtype: str
    size: int
    end: int
    checksum: int


class Damage(Exception):
    """What is wrong with an index, in a few words."""


def read_index(path: Path, data: Path) -> dict[str, Entry]:
    """The tensors that an index names.

    Args:
        path: the file `NAME.index`.
        data: the only data file, `NAME.data-00000-of-00001`.

    Raises InputError if the index is damaged, or if a tensor lies outside the data file.

    Example:
        >>> prefix = "models/124M/model.ckpt"
        >>> entries = read_index(Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001"))  # doctest: +SKIP
        >>> entries["model/wte"].shape  # doctest: +SKIP
        (50257, 768)
    """
    fix = "copy or download the checkpoint again"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Damage("too large")
        entries = parse_index(path.read_bytes())
        size = data.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {fix}") from None
    except (Damage, UnicodeDecodeError, struct.error) as error:
        raise InputError(f"{path}: not a checkpoint's index ({error}): {fix}") from None
    end = max(sum(entry.size for entry in entries.values()), *(entry.end for entry in entries.values()), 0)
    if end > size:
        raise InputError(f"{data}: truncated, {size:,} of {end:,} bytes: {fix}")
    return entries


def parse_index(content: bytes) -> dict[str, Entry]:
    """The tensors of an index by name."""
    if content[-len(MAGIC) :] != MAGIC or len(content) < FOOTER:
        raise Damage("its end is missing")
    footer = content[-FOOTER:]
    position = 0
    handles = []
    for _ in range(4):  # offset and size of a block without use, then those of the block of blocks
        value, position = read_varint(footer, position)
        handles.append(value)
    records: list[tuple[bytes, bytes]] = []
    end = 0
    for _, handle in list_records(content, *handles[2:]):
        offset, position = read_varint(handle, 0)
        size, _ = read_varint(handle, position)
        if offset < end:
            raise Damage("blocks that overlap")
        end = offset + size
        records += list_records(content, offset, size)
    names = [name for name, _ in records]
    if not names or names[0] or names != sorted(set(names)):
        raise Damage("names out of order")
    header = parse_message(records[0][1])
    if header.get(1, [1]) != [1] or header.get(2, [0]) != [0]:
        raise Damage("more than one data file, or another byte order")
    return {name.decode(): parse_entry(name.decode(), parse_message(value)) for name, value in records[1:]}


def list_records(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block. A key repeats the first bytes of the one before it."""
    block = content[offset : offset + size]
    if len(block) != size or content[offset + size : offset + size + 1] != b"\0" or size < 4:
        raise Damage("a block outside the file, or a compressed one")
    (count,) = struct.unpack_from("<I", block, size - 4)
    end = size - 4 - 4 * count
    if end < 0:
        raise Damage("a block that is too short")
    restarts = struct.unpack_from(f"<{count}I", block, end)
    starts = []
    key = b""
    position = 0
    while position < end:
        start = position
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or shared + added > LONGEST_NAME or position + added + length > end:
            raise Damage("a record outside its block")
        if not shared:
            starts.append(start)
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length
    if not set(restarts) <= set(starts or [0]):  # TensorFlow begins to read there
        raise Damage("a wrong place to begin in a block")


def parse_entry(name: str, message: Message) -> Entry:
    """A tensor."""
    if 7 in message:
        raise Damage(f"tensor {name} is stored in parts")
    if message.keys() - {1, 2, 3, 4, 5, 6}:
        raise Damage("an unknown field")
    kind, shard, offset, size = (single(message, field) for field in (1, 3, 4, 5))
    shape = parse_shape(message.get(2, []))
    if kind not in SIZES or shard or (kind != TEXT and math.prod(shape) * SIZES[kind] != size):
        raise Damage(f"tensor {name} {list(shape)} has another size than it says")
    checksums = message.get(6, [bytes(4)])
    if len(checksums) != 1 or not isinstance(checksums[0], bytes) or len(checksums[0]) != 4:
        raise Damage(f"tensor {name} has no checksum of four bytes")
    return Entry(shape, FLOATS.get(kind, ""), size, offset + size, *struct.unpack("<I", checksums[0]))


def parse_shape(messages: list[int | bytes]) -> tuple[int, ...]:
    """The dimensions in a TensorShapeProto; a scalar has none."""
    if len(messages) > 1:
        raise Damage("two shapes of a tensor")
    shape = parse_message(messages[0]) if messages else {}
    dimensions = tuple(single(parse_message(dimension), 1) for dimension in shape.get(2, []))
    if shape.keys() - {2} or len(dimensions) > 8 or math.prod(max(size, 1) for size in dimensions) >= 2**63:
        raise Damage("an impossible shape")
    return dimensions


def single(message: Message, field: int) -> int:
    """A number that a message holds once, or not at all: then it is 0."""
    values = message.get(field, [0])
    if len(values) != 1 or not isinstance(values[0], int):
        raise Damage("a field with several values")
    return values[0]


def parse_message(content: int | bytes) -> Message:
    """The fields of a message of Protocol Buffers."""
    if isinstance(content, int):
        raise Damage("a number in the place of a message")
    message: Message = {}
    position = 0
    while position < len(content):
        tag, position = read_varint(content, position)
        value: int | bytes
        if tag & 7 == 0:
            value, position = read_varint(content, position)
        elif tag & 7 == 2:
            length, position = read_varint(content, position)
            value, position = content[position : position + length], position + length
        elif tag & 7 == 5:
            value, position = content[position : position + 4], position + 4
        else:
            raise Damage("an unknown field")
        if position > len(content):
            raise Damage("a field that is too short")
        message.setdefault(tag >> 3, []).append(value)
    return message


def read_varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of up to 64 bits in groups of seven, the lowest first, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Damage("a number without an end")
