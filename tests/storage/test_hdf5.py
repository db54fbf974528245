"""The reader of HDF5: what h5py writes for us, and nothing else."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.hdf5 import atomic_hdf5
from gpt_tf2.storage.hdf5 import open_hdf5


def write(path: Path, datasets: int = 3) -> dict[str, np.ndarray]:
    arrays = {f"h{i}/attn/w": np.full((i + 1, 2), i, "float32") for i in range(datasets)}
    arrays |= {"losses": np.arange(3.0), "none": np.zeros((0, 2)), "one": np.float32(7), "half": np.ones(5, "float16")}
    with atomic_hdf5(path) as file:
        file.attrs["run"] = '{"é": ' + "9" * 50_000 + "}"
        file.attrs["base"] = "models/tiny"
        file.attrs["number"] = 3
        for name, array in arrays.items():
            file[name] = array
    return arrays


@pytest.mark.parametrize("datasets", [3, 700])
def test_it_reads_what_h5py_writes(tmp_path: Path, datasets: int) -> None:
    arrays = write(tmp_path / "a.h5", datasets)
    file = open_hdf5(tmp_path / "a.h5")
    assert file.attributes == {"run": '{"é": ' + "9" * 50_000 + "}", "base": "models/tiny"}
    assert file.datasets.keys() == arrays.keys()
    for name, array in arrays.items():
        read = file.read(name)
        assert read.dtype == array.dtype and read.shape == array.shape and np.array_equal(read, array)


def test_a_file_that_changes_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    file = open_hdf5(tmp_path / "a.h5")
    write(tmp_path / "a.h5", 4)
    with pytest.raises(InputError, match="changed"):
        file.read("losses")


def external_file(file: h5py.File) -> None:
    file.create_dataset("x", (4,), "f4", external=[("secret", 0, 16)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(file.filename, "losses", (4,))
    file.create_virtual_dataset("x", layout)


def make_unwritten(file: h5py.File) -> None:
    file.create_dataset("x", (2**32,), "f4")


def make_chunks(file: h5py.File) -> None:
    file.create_dataset("x", (2**32,), "f4", chunks=(2**20,), compression="gzip")


def make_compact(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), properties)


def make_soft_link(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/losses")


def make_external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "/losses")


def make_hard_link(file: h5py.File) -> None:
    file["x"] = file["losses"]


def make_circle(file: h5py.File) -> None:
    file.create_group("g")
    file["g/x"] = file["/"]


def make_references(file: h5py.File) -> None:
    file.create_dataset("x", (1,), h5py.ref_dtype)[0] = file["losses"].ref


def make_text(file: h5py.File) -> None:
    file["x"] = "text"


def make_numbers(file: h5py.File) -> None:
    file["x"] = np.arange(3)


def make_records(file: h5py.File) -> None:
    file["x"] = np.zeros(3, [("a", "f4"), ("b", "f4")])


def make_long_names(file: h5py.File) -> None:
    file["/".join("x" * 600 for _ in range(3))] = np.zeros(3)


def make_type(file: h5py.File) -> None:
    file["t"] = np.dtype("f4")
    file.create_dataset("x", (4,), file["t"])


STRANGE = (external_file, virtual, make_unwritten, make_chunks, make_compact, make_soft_link, make_external_link)
STRANGER = (
    make_hard_link,
    make_circle,
    make_references,
    make_text,
    make_numbers,
    make_records,
    make_long_names,
    make_type,
)


@pytest.mark.parametrize("act", [*STRANGE, *STRANGER])
def test_what_we_do_not_write_is_refused_before_anything_is_read(
    tmp_path: Path, act: Callable[[h5py.File], None]
) -> None:
    write(tmp_path / "a.h5")
    open_hdf5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        act(file)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a.h5: damaged, or not written by gpt-tf2 \(.+\): copy"):
        open_hdf5(tmp_path / "a.h5")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_newer_forms_of_the_format_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(InputError, match="another version"):
        open_hdf5(tmp_path / "a.h5")


def patch(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def test_a_shape_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    with atomic_hdf5(tmp_path / "a.h5") as file:
        file["x"] = np.zeros((5, 7), "float32")
    shape = struct.pack("<4Q", 5, 7, 5, 7)  # with the maxima
    patch(tmp_path / "a.h5", shape, struct.pack("<4Q", 2**31, 2**31, 2**31, 2**31))
    with pytest.raises(InputError, match="longer than its bytes"):
        open_hdf5(tmp_path / "a.h5")


def test_two_datasets_cannot_share_their_bytes(tmp_path: Path) -> None:
    with atomic_hdf5(tmp_path / "a.h5") as file:
        for name in "ab":
            file[name] = np.zeros(40, "float32")
        one, two = (file[name].id.get_offset() for name in "ab")
    patch(tmp_path / "a.h5", struct.pack("<QQ", two, 160), struct.pack("<QQ", one + 4, 160))
    with pytest.raises(InputError, match="shares its bytes"):
        open_hdf5(tmp_path / "a.h5")


@pytest.mark.parametrize("content", [b"", b"\x89HDF", b"no HDF5" * 50, b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"a.h5: damaged"):
        open_hdf5(tmp_path / "a.h5")
