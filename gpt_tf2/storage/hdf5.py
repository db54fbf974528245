"""A reader of HDF5 files in the layout that gpt-tf2 and Keras 2 write, for files that may be damaged or hostile.

HDF5's own library follows whatever a file says: it reads other files, runs in circles and crashes. This reader knows
the layout that h5py writes by default (version 0 of the HDF5 File Format Specification, https://docs.hdfgroup.org):
groups as symbol tables, float datasets in one piece, text as attributes. It refuses everything else, visits no address
twice, and allocates nothing for a dataset until the dataset is read.
"""

import dataclasses
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gpt_tf2.errors import InputError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # the address of what is not stored
MOST_STRUCTURE = 1 << 24  # bytes that are parsed, which bounds the time; the largest saved run has 0.9 MB
LONGEST_NAME = 1024  # bytes of a path in the file
MOST_DIMENSIONS = 8
OPTIMIZER = "optimizer_weights"  # Keras's group of what is no model's; left out, since it holds more than floats
# Types of messages in the header of an object.
DATASPACE, DATATYPE, LAYOUT, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x0C, 0x10, 0x11
# Those that do not change the values: padding, fill values, times. The others are links, filters, external files, ...
IGNORED = {0x00, 0x04, 0x05, 0x0E, 0x12}
FLOATS: dict[bytes, np.dtype] = {
    bytes.fromhex("11200f0002000000000010000a05000a0f000000"): np.dtype("<f2"),
    bytes.fromhex("11201f000400000000002000170800177f000000"): np.dtype("<f4"),
    bytes.fromhex("11203f000800000000004000340b0034ff030000"): np.dtype("<f8"),
}


class Stored(NamedTuple):
    """A dataset: its shape, its type, and the offset of its first byte."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Damage(Exception):
    """What is wrong with a file, in a few words."""


@dataclasses.dataclass(frozen=True)
class HDF5File:
    """The checked structure of a file; its datasets stay on disk.

    attributes: the text attributes of the file.
    datasets: by path in the file, such as `h0/ln_1/g`.
    fix: what errors advise.
    stamp: tells whether the file is still the same.
    """

    path: Path
    attributes: dict[str, str]
    datasets: dict[str, Stored]
    fix: str
    stamp: tuple[int, ...]

    def read(self, name: str) -> np.ndarray:
        """Reads a dataset. Raises InputError if there is none of that name, or if the file has changed."""
        if name not in self.datasets:
            raise InputError(f"{self.path}: no tensor {name} in it: {self.fix}")
        stored = self.datasets[name]
        try:
            with self.path.open("rb") as file:
                if stamp_of(file) != self.stamp:
                    raise InputError(f"{self.path}: has changed since it was opened: start again")
                file.seek(stored.offset)
                values = np.fromfile(file, stored.dtype, math.prod(stored.shape))
        except OSError as error:
            raise InputError(f"{self.path}: tensor {name} cannot be read ({error.strerror}): {self.fix}") from None
        if values.nbytes != stored.size:
            raise InputError(f"{self.path}: tensor {name} is truncated: {self.fix}")
        return values.reshape(stored.shape)

    def read_float32(self, name: str) -> np.ndarray:
        """Reads a dataset as float32. Raises InputError like `read`."""
        with np.errstate(over="ignore"):  # float64 may hold more: no warning
            return self.read(name).astype("float32", copy=False)

    def attribute(self, name: str) -> str:
        """The text of an attribute. Raises InputError if there is none of that name."""
        if name not in self.attributes:
            raise InputError(f"{self.path}: no attribute {name}, so another program wrote it: {self.fix}")
        return self.attributes[name]


def open_hdf5(path: str | Path, fix: str = "copy it again, or give a file written by gpt-tf2") -> HDF5File:
    """Reads the structure of a file.

    Args:
        fix: what errors advise.

    Raises InputError if the file cannot be read, is truncated or damaged, or is none that gpt-tf2 writes.

    Example:
        >>> open_hdf5("output/book.h5").datasets["wte"].shape  # doctest: +SKIP
        (50257, 768)
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            reader = Reader(file)
            attributes, datasets = reader.read_file()
            return HDF5File(path, attributes, datasets, fix, stamp_of(file))
    except (Damage, UnicodeDecodeError, struct.error) as error:
        raise InputError(f"{path}: damaged, or not written by gpt-tf2 ({error}): {fix}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {fix}") from None


def stamp_of(file: BinaryIO) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Reader:
    """Walks through an open file. Every structure is read once, at an address of its own, inside the file.

    So the datasets have no more bytes than the file.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.visited: set[int] = set()
        self.left = MOST_STRUCTURE

    def read_file(self) -> tuple[dict[str, str], dict[str, Stored]]:
        """The attributes and the datasets of the file."""
        superblock = self.read(0, min(96, self.size))
        if superblock[:8] != SIGNATURE or self.size < 96:
            raise Damage("no HDF5")
        if superblock[8:16] != bytes([0, 0, 0, 0, 0, 8, 8, 0]):
            raise Damage("another version of the format")
        base, _, end, driver = struct.unpack_from("<4Q", superblock, 24)
        if base or driver != UNDEFINED:
            raise Damage("another layout")
        if end > self.size:
            raise Damage(f"truncated, {self.size:,} of {end:,} bytes")
        root = self.read_object(struct.unpack_from("<Q", superblock, 64)[0])
        datasets: dict[str, Stored] = {}
        waiting = [("", root)]
        while waiting:
            prefix, messages = waiting.pop()
            for name, address in self.list_links(messages):
                if prefix + name == OPTIMIZER:
                    continue
                item = self.read_object(address)
                if prefix + name in datasets or "/" in name or not name or len(prefix + name) > LONGEST_NAME:
                    raise Damage(f"an impossible name, {prefix[:40]}{name}")
                if any(kind == SYMBOL_TABLE for kind, _ in item):
                    waiting.append((f"{prefix}{name}/", item))
                else:
                    datasets[prefix + name] = self.parse_dataset(prefix + name, item)
        end = 0
        for name, stored in sorted(datasets.items(), key=lambda item: item[1].offset):
            if stored.size and stored.offset < end:
                raise Damage(f"{name} shares its bytes with another tensor")
            end = max(end, stored.offset + stored.size)
        texts = (self.parse_attribute(body) for kind, body in root if kind == ATTRIBUTE)
        return dict(text for text in texts if text), datasets

    def read(self, address: int, size: int) -> bytes:
        """A piece of structure."""
        self.left -= size
        if address + size > self.size:
            raise Damage(f"an address outside the file, {address}")
        if self.left < 0:
            raise Damage("too large a structure")
        self.file.seek(address)
        return self.file.read(size)

    def read_new(self, address: int, size: int, signature: bytes = b"") -> bytes:
        """The beginning of a structure that nothing else has referred to."""
        if address in self.visited:
            raise Damage(f"a second reference to address {address}")
        self.visited.add(address)
        content = self.read(address, size)
        if not content.startswith(signature):
            raise Damage(f"no {signature[:4].decode()} at byte {address}")
        return content

    def read_object(self, address: int) -> list[tuple[int, bytes]]:
        """The messages of an object's header: type and content."""
        version, count, size = struct.unpack("<BxH4xI4x", self.read_new(address, 16))
        if version != 1:
            raise Damage(f"no object at byte {address}")
        messages: list[tuple[int, bytes]] = []
        blocks = [(address + 16, size)]
        for start, length in blocks:  # grows
            content = self.read(start, length) if start == address + 16 else self.read_new(start, length)
            position = 0
            while position + 8 <= length and len(messages) < count:
                kind, size, flags = struct.unpack_from("<HHB", content, position)
                body = content[position + 8 : position + 8 + size]
                position += 8 + size
                if position > length or flags & 0b10:  # shared messages lie elsewhere
                    raise Damage(f"a message outside its object at byte {start}")
                messages.append((kind, body))
                if kind == CONTINUATION:
                    start_of_more, length_of_more = unpack("<QQ", body)
                    blocks.append((start_of_more, length_of_more))
        return messages

    def list_links(self, messages: list[tuple[int, bytes]]) -> Iterator[tuple[str, int]]:
        """The names in a group and the addresses of their objects."""
        tables = [body for kind, body in messages if kind == SYMBOL_TABLE]
        if len(tables) != 1 or any(
            kind not in IGNORED | {SYMBOL_TABLE, ATTRIBUTE, CONTINUATION} for kind, _ in messages
        ):
            raise Damage("a group that gpt-tf2 does not write")
        tree, heap = unpack("<QQ", tables[0])
        _, length, names_at = struct.unpack("<8sQ8xQ", self.read_new(heap, 32, b"HEAP\0"))
        names = self.read_new(names_at, length)
        nodes = [tree]
        while nodes:
            address = nodes.pop()
            head = self.read_new(address, 8)
            if head[:4] == b"TREE":
                kind, _, used = struct.unpack_from("<BBH", head, 4)
                if kind:
                    raise Damage(f"a group without names at byte {address}")
                children = self.read(address + 24, 8 + 16 * used)
                nodes += [struct.unpack_from("<Q", children, 8 + 16 * i)[0] for i in reversed(range(used))]
            elif head[:4] == b"SNOD":
                (used,) = struct.unpack_from("<H", head, 6)
                for name_at, target, cached in struct.iter_unpack("<QQI20x", self.read(address + 8, 40 * used)):
                    end = names.find(b"\0", name_at, name_at + LONGEST_NAME) if name_at < length else -1
                    if cached > 1 or end < 0:
                        raise Damage("a link to something else than an object of this file")
                    yield names[name_at:end].decode(), target
            else:
                raise Damage(f"no TREE or SNOD at byte {address}")

    def parse_dataset(self, name: str, messages: list[tuple[int, bytes]]) -> Stored:
        """A dataset in one piece."""
        parts: dict[int, bytes] = {}
        for kind, body in messages:
            if kind in IGNORED or kind in (CONTINUATION, ATTRIBUTE):
                continue
            if kind not in (DATASPACE, DATATYPE, LAYOUT) or kind in parts:
                raise Damage(f"{name} is not stored as gpt-tf2 does")
            parts[kind] = body
        if len(parts) != 3:
            raise Damage(f"{name} is no dataset")
        shape, dtype = parse_dataspace(parts[DATASPACE]), FLOATS.get(parts[DATATYPE][:20])
        if dtype is None:
            raise Damage(f"{name} holds no floating-point numbers")
        version, layout, offset, size = unpack("<BBQQ", parts[LAYOUT])
        if (version, layout) != (3, 1):
            raise Damage(f"{name} is not stored in one piece, as h5repack -l CONTI -f NONE stores it")
        stored = Stored(shape, dtype, offset)
        if stored.size != size or (size and offset + size > self.size):
            raise Damage(f"{name} {list(shape)} is longer than its bytes in the file")
        return stored if size else Stored(shape, dtype, 0)

    def parse_attribute(self, body: bytes) -> tuple[str, str] | None:
        """Name and text of an attribute; None if it is no single text."""
        version, name_size, type_size, space_size = unpack("<BxHHH", body)
        padding, start = (8, 8) if version == 1 else (1, 9)
        if version not in (1, 3):
            raise Damage("an attribute that gpt-tf2 does not write")
        parts = []
        for size in (name_size, type_size, space_size):
            parts.append(body[start : start + size])
            start += size + -size % padding
        name, kind, space = parts
        if kind[:1] != b"\x19" or kind[1:2] != b"\x01" or parse_dataspace(space):  # text of any length
            return None
        _, heap, number = unpack("<IQI", body[start:])
        return name.rstrip(b"\0").decode(), self.read_text(heap, number)

    def read_text(self, address: int, number: int) -> str:
        """An object of a global heap: several attributes share one."""
        head = self.read(address, 16)
        (length,) = struct.unpack_from("<Q", head, 8)
        if head[:5] != b"GCOL\x01":
            raise Damage(f"no GCOL at byte {address}")
        content = self.read(address, length)
        position = 16
        while position + 16 <= length:
            index, size = struct.unpack_from("<H6xQ", content, position)
            position += 16
            if index == number and position + size <= length:
                return content[position : position + size].rstrip(b"\0").decode()
            if not index:
                break
            position += size + -size % 8
        raise Damage(f"no text at byte {address}")


def parse_dataspace(body: bytes) -> tuple[int, ...]:
    """The dimensions."""
    version, rank = unpack("<BB", body)
    if version != 1 or rank > MOST_DIMENSIONS:
        raise Damage("a shape that gpt-tf2 does not write")
    return unpack(f"<8x{rank}Q", body)


def unpack(layout: str, body: bytes) -> tuple[int, ...]:
    """The beginning of a message."""
    if len(body) < struct.calcsize(layout):
        raise Damage("a message that is too short")
    return struct.unpack_from(layout, body)
