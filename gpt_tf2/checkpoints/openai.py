"""OpenAI's format: a TensorFlow 1 checkpoint, `model.ckpt.index` and `model.ckpt.data-00000-of-00001`."""

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to numpy
import numpy as np

from gpt_tf2.backend.starting import import_tensorflow_for_files
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.tf1_index import Entry, read_index
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import read_or_empty, replace_file, sync_to_disk, write_error
from gpt_tf2.storage.locks import hold_lock

INDEX = ".index"
DATA = ".data-00000-of-00001"
LATEST = re.compile(r'^model_checkpoint_path: "(.+)"', re.MULTILINE)
SHOWN = 3  # checkpoints of a folder that an error names


def is_prefix(path: Path) -> bool:
    """Whether a path is the prefix of a TF1 checkpoint."""
    return with_suffix(path, INDEX).is_file()


def with_suffix(prefix: Path, suffix: str) -> Path:
    """One of the files of a checkpoint, such as `model.ckpt.index`."""
    return Path(f"{prefix}{suffix}")  # also of `.` and `/`, which have no name


def find_prefix(file: Path) -> Path | None:
    """The prefix of the checkpoint that a file such as `model-1000.index` or `model-1000.meta` belongs to."""
    prefix = file.with_name(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", file.name))
    return prefix if prefix != file and is_prefix(prefix) else None


def find_latest(folder: Path) -> Path | None:
    """The prefix of a folder's checkpoint; None if it has none.

    Of several it is the one that the file `checkpoint`, written by TensorFlow's saver, says is the latest.

    Raises InputError if that one is not there, or if no file says which.
    """
    prefixes = sorted(path.with_suffix("") for path in folder.glob(f"*{INDEX}") if path.is_file())
    match = LATEST.search(read_or_empty(str(folder / "checkpoint")))
    if not prefixes:
        return None
    names = ", ".join(prefix.name for prefix in prefixes[-SHOWN:])
    if match:
        latest = folder / re.split(r"[/\\]+", match[1])[-1]  # the folder may have been moved
        if latest in prefixes:
            return latest
        problem = f"names {latest.name[:80]}, which is not there"
        raise InputError(f"{folder / 'checkpoint'}: {problem}: give one that is, as in {folder}/NAME ({names})")
    if len(prefixes) > 1 and folder / "model.ckpt" not in prefixes:
        raise InputError(f"{folder}: {len(prefixes)} checkpoints: give one, as in {folder}/NAME ({names})")
    return prefixes[0] if len(prefixes) == 1 else folder / "model.ckpt"


def open_checkpoint(prefix: Path) -> Checkpoint:
    """Opens a TF1 checkpoint; tensors lose the prefix `model/`, and matrices their leading dimension 1.

    What an optimizer keeps is left out. TensorFlow is not imported.

    Raises InputError if one of the two files is missing, truncated or damaged.
    """
    index, data = (with_suffix(prefix, suffix) for suffix in (INDEX, DATA))
    fix = "copy or download the checkpoint again"
    for path in (index, data):
        if not path.is_file():
            raise InputError(f"{path}: no such file: {fix}")
    entries = drop_optimizer(read_index(index, data))
    keys = {key.removeprefix("model/"): key for key in entries}
    if len(keys) < len(entries):
        raise InputError(f"{index}: a tensor with the prefix model/ and without: {fix}")
    shapes = {name: drop_width(entries[key].shape) for name, key in keys.items()}

    def read(name: str) -> np.ndarray:
        from gpt_tf2.checkpoints.crc32c import crc32c  # with Numba

        entry = entries[keys[name]]
        if not entry.dtype:
            raise InputError(f"{index}: tensor {name} holds no floating-point numbers: {fix}")
        try:
            content = np.fromfile(data, "uint8", entry.size, offset=entry.end - entry.size)
        except OSError as error:
            raise InputError(f"{data}: cannot be read ({error.strerror or error}): {fix}") from None
        if len(content) < entry.size or mask_checksum(crc32c(content)) != entry.checksum:
            raise InputError(f"{data}: tensor {name} is truncated or damaged: {fix}")
        return content.view(entry.dtype).astype("float32", copy=False).reshape(shapes[name])

    return Checkpoint(prefix, shapes, read)


def mask_checksum(checksum: int) -> int:
    """A CRC-32C as TensorFlow stores it: turned by 15 bits, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def drop_optimizer(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The tensors of a model without those of its training: numbers, and what is named after one of its tensors.

    Example:
        >>> sizes = {"global_step": (), "model/wpe": (8, 4), "model/wpe/Adam": (8, 4)}
        >>> list(drop_optimizer({name: Entry(shape, "float32", 0, 0, 0) for name, shape in sizes.items()}))
        ['model/wpe']
    """
    inside = any(name.startswith("model/") for name in entries)  # what is outside belongs to no network of OpenAI's
    return {
        name: entry
        for name, entry in entries.items()
        if entry.shape
        and name.rpartition("/")[0] not in entries
        and (name.startswith("model/") or not inside or f"model/{name}" in entries)
    }


def drop_width(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a matrix, which OpenAI stores as a convolution of width 1, [1, inputs, outputs]."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def write(prefix: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes the tensors, the file `checkpoint`, which names them for TensorFlow, and `hparams.json`.

    All are written to a folder beside their places and then moved, the index last. Killed while it writes, a process
    leaves the old checkpoint; killed while it moves, one that `finish_save` makes whole.

    Raises InputError if a file cannot be written.
    """
    tf = import_tensorflow_for_files()
    names = sorted(f"model/{name}" for name in tensors)  # the order of TensorFlow 1's saver
    folder = prefix.with_name(f".{prefix.name}.gpt_tf2-part")
    try:
        with hold_lock(prefix, on_wait=lambda: None), tf.device("CPU"):
            finish_save(prefix)
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
            folder.mkdir()
            values = [tf.convert_to_tensor(tensors[name.removeprefix("model/")]) for name in names]
            values = [value[None] if name.endswith("/w") else value for name, value in zip(names, values, strict=True)]
            try:
                tf.raw_ops.SaveV2(
                    prefix=str(folder / "model"), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
                )
                (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n', encoding="utf-8")
                (folder / "hparams.json").write_text(config.to_json(), encoding="utf-8")
                for file in folder.iterdir():
                    sync_to_disk(file)
                sync_to_disk(folder)
                folder.rename(saved_folder(prefix))
            except tf.errors.OpError as error:
                raise OSError(first_line(error)) from None
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            finish_save(prefix)
    except OSError as error:
        raise write_error(with_suffix(prefix, DATA), error) from None


def saved_folder(prefix: Path) -> Path:
    """The folder that holds those files of a whole save that are not in their places yet."""
    return prefix.with_name(f".{prefix.name}.gpt_tf2-unfinished")


def finish_save(prefix: Path) -> None:
    """Moves the files of a save to their places, if a killed process has not.

    Raises InputError if they cannot be moved.
    """
    folder, companions = saved_folder(prefix), companion_folder(prefix)
    if folder.is_symlink() or not folder.is_dir():
        return
    targets = {
        f"model{DATA}": with_suffix(prefix, DATA),
        "checkpoint": prefix.with_name("checkpoint"),
        "hparams.json": companions / "hparams.json",
        f"model{INDEX}": with_suffix(prefix, INDEX),
    }
    try:
        companions.mkdir(parents=True, exist_ok=True)
        for name, target in targets.items():
            with contextlib.suppress(FileNotFoundError):  # it was moved
                replace_file(folder / name, target)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        reason = f"unfinished save ({error.strerror or error})"
        raise InputError(f"{prefix}: {reason}: open it where it can be written, or `resume` its run") from None


def first_line(error: Exception) -> str:
    """The first line of TensorFlow's message, at most 120 characters."""
    return str(error).strip().split("\n")[0][:120]
