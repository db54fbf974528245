"""The reader of `.npz` files: sizes are checked before anything is allocated."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.storage.npz import array_names, read_ids


def header(shape: str, kind: str = "<i4", end: bytes = b"") -> bytes:
    """A member that declares a shape, in the format of `.npy`."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + end


def write(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read_all(path: Path) -> list[np.ndarray]:
    return [read_ids(path, name) for name in array_names(path)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["int64", "uint16", "<i4", ">i4", "int8"])
def test_it_reads_what_numpy_writes(tmp_path: Path, save: object, dtype: str) -> None:
    arrays = {"b": np.arange(99).astype(dtype), "a": np.zeros(0, dtype), "ü": np.tile(np.arange(9), 9999).astype(dtype)}
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    assert array_names(tmp_path / "a.npz") == list(arrays)
    assert all(np.array_equal(read_ids(tmp_path / "a.npz", name), array) for name, array in arrays.items())


def bomb() -> bytes:
    return header("(100000000,)", "|i1", bytes(100_000_000))


HOSTILE = {
    "40 GB": ({"ids.npy": header("(10000000000,)")}, "another size"),
    "fewer than declared": ({"ids.npy": header("(3,)", end=bytes(8))}, "another size"),
    "more than declared": ({"ids.npy": header("(3,)", end=bytes(16))}, "another size"),
    "negative": ({"ids.npy": header("(-3,)", end=bytes(8))}, "another size"),
    "open brackets": ({"ids.npy": b"\x93NUMPY\x01\x00\x32\x00" + b"(" * 50}, "not an .npz of arrays"),
    "many open brackets": ({"ids.npy": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000}, "not an .npz of arrays"),
    "code": ({"ids.npy": header("().__class__")}, "not an .npz of arrays"),
    "objects": ({"ids.npy": header("(3,)", "|O", bytes(24))}, "object"),
    "text": ({"ids.npy": header("(3,)", "<U1", bytes(12))}, "<U1"),
    "a matrix": ({"ids.npy": header("(2, 3)", end=bytes(24))}, r"\[2, 3\]"),
    "no array": ({"readme.txt": b"hello", "ids.npy": header("(0,)")}, "readme.txt in it is no array"),
    "no .npy": ({"ids.npy": b"hello"}, "not an .npz of arrays"),
    "another version": ({"ids.npy": b"\x93NUMPY\x09\x00" + bytes(99)}, "not an .npz of arrays"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_and_hostile_arrays_are_refused(tmp_path: Path, name: str) -> None:
    members, words = HOSTILE[name]
    write(tmp_path / "a.npz", members)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"^data=.*a.npz: .*{words}.*: .*(again|give)"):
        read_all(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", {"ids.npy": bomb()}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match=r"100,0\d\d,\d\d\d bytes of data in a file of \d\d,\d\d\d: write it again"):
        array_names(path)


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", header("(0,)"))
        archive.writestr("a.npy", header("(0,)"))
    with pytest.raises(InputError, match="two arrays of one name"):
        array_names(tmp_path / "a.npz")


def test_encrypted_members_and_a_flipped_byte_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.arange(50))
    content = bytearray(buffer.getvalue())
    encrypted, flipped = content.copy(), content.copy()
    directory = content.index(b"PK\x01\x02")
    encrypted[6] |= 1
    encrypted[directory + 8] |= 1
    flipped[directory - 3] ^= 1
    for damaged, words in ((encrypted, "encrypted"), (flipped, "CRC")):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=words):
            read_all(tmp_path / "a.npz")
