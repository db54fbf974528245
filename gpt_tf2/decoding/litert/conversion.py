"""The converted form of a checkpoint, kept beside it and made anew when the checkpoint changes or it is damaged."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import KEPT, digest_of, stamp_of, sync, write_text

FORMAT = 2  # of the files; another number converts anew
ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A folder of converted graphs.

    perplexity: of int8, of a sample in float32 and in int8; else None.
    """

    folder: Path
    config: GPT2Config
    perplexity: tuple[float, float] | None


def place(path: Path, precision: str) -> Path:
    """The folder of a checkpoint's conversion; several checkpoints may share a home."""
    return companion_folder(path) / KEPT / f"litert-{path.name}-{precision}"


def find(path: Path, sources: Sequence[Path], precision: str) -> Conversion | None:
    """What is kept for a checkpoint, if it is whole and of the checkpoint as it is now.

    path: of the checkpoint's file or prefix. sources: the files of its weights and hyper-parameters.
    """
    folder = place(path, precision)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            return None
        now = stamp(sources)
        if about["stamp"] != now:
            if about["content"] != content(sources):
                return None
            with contextlib.suppress(InputError):  # it may lie where nothing can be written
                write_text(folder / ABOUT, json.dumps({**about, "stamp": now}))
        if about["files"] != checksums(folder):
            return None
        perplexity = about["perplexity"] and (about["perplexity"][0], about["perplexity"][1])
        return Conversion(folder, GPT2Config.from_dict(about["hparams"], str(folder / ABOUT)), perplexity)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(
    path: Path,
    sources: Sequence[Path],
    precision: str,
    config: GPT2Config,
    write: Callable[[Path], tuple[float, float] | None],
) -> Conversion:
    """Keeps what `write` writes to a folder: all of it, or nothing; it returns the perplexities, if there are any.

    Raises InputError if it cannot be written.
    """
    folder = place(path, precision)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        before, key = stamp(sources), content(sources)
        perplexity = write(temporary)
        about = {
            "format": FORMAT,
            "stamp": before,
            "content": key,
            "hparams": dataclasses.asdict(config),
            "files": checksums(temporary),
            "perplexity": perplexity,
        }
        for file in temporary.iterdir():
            sync(file)
        write_text(temporary / ABOUT, json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync(folder.parent)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{folder}: cannot be written ({reason}): free space, or give --engine graph") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Conversion(folder, config, perplexity)


def stamp(files: Sequence[Path]) -> str:
    """The same only if no file was touched."""
    return "".join(stamp_of(path.resolve()) for path in files)


def content(files: Sequence[Path]) -> str:
    """A digest of what files hold."""
    return hashlib.sha256(b"".join(map(digest_of, files))).hexdigest()


def checksums(folder: Path) -> dict[str, list[int]]:
    """The size and CRC-32 of each file that was converted, by name."""

    def checksum(path: Path) -> list[int]:
        found = 0
        with path.open("rb") as file:
            while part := file.read(1 << 22):
                found = zlib.crc32(part, found)
        return [path.stat().st_size, found]

    paths = sorted(path for path in folder.iterdir() if path.name != ABOUT)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return dict(zip((path.name for path in paths), workers.map(checksum, paths), strict=True))
