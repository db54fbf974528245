"""Downloading OpenAI's released models: whole files or none."""

import base64
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import sync_to_disk

BASE = "https://openaipublic.blob.core.windows.net/gpt-2/models"
FILES = (
    "checkpoint",
    "encoder.json",
    "hparams.json",
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
    "model.ckpt.meta",
    "vocab.bpe",
)
ATTEMPTS = 6  # in a row without a new byte
CHUNK = 1 << 20  # bytes hashed at a time
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known


class Interrupted(Exception):
    """A transfer that may go on if tried again."""


def download_file(url: str, path: Path, progress: Progress = lambda done, total: None, wait: float = 1.0) -> None:
    """Downloads one file, unless it is there.

    What has arrived stands in `PATH.part`, from which a later call goes on too; the file gets its name once it has the
    length and the MD5 that the server told (`x-goog-hash` or `Content-MD5`). Connection errors, time-outs, 429 and 5xx
    are tried again, `wait` seconds later, then twice that, and so on.

    Raises InputError if the server refuses, keeps failing, or sent other bytes than it announced.
    """
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    failures = 0
    with httpx.Client(timeout=30, follow_redirects=True) as client:
        while True:
            before = size_of(part)
            try:
                md5 = fetch(client, url, part, progress)
                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise InputError(f"{url}: {error}: give an address that begins with https://") from None
            except (httpx.TransportError, Interrupted) as error:
                failures = 1 if size_of(part) > before else failures + 1
                if failures == ATTEMPTS:
                    raise InputError(f"{url}: {error}: check the network, or try again later") from None
                time.sleep(wait * 2 ** (failures - 1))
            except OSError as error:
                raise InputError(f"{part}: cannot be written ({error.strerror}): free space and try again") from None
    if md5 and md5_of(part) != md5:
        part.unlink()
        raise InputError(f"{url}: the file's MD5 is not the server's, it was damaged on the way: try again")
    sync_to_disk(part)
    part.replace(path)
    sync_to_disk(path.parent)


def fetch(client: httpx.Client, url: str, part: Path, progress: Progress) -> bytes | None:
    """Appends to `part` what it lacks of the file, and returns the MD5 that the server tells, if it does."""
    have = size_of(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 429 or response.status_code >= 500:
            raise Interrupted(f"the server answers {response.status_code}")
        if response.status_code == 416:  # the part is whole, or longer than the file
            part.unlink()
            raise Interrupted("the server has no such range")
        if response.status_code not in (200, 206):
            raise InputError(f"{url}: the server answers {response.status_code}: check the size and the base address")
        if response.status_code == 200:
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():  # as it comes: a chunk size would lose the last of a broken transfer
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
        if total is not None and have != total:
            raise Interrupted(f"{have} of {total} bytes arrived")
        return md5_in(response.headers)


def md5_in(headers: httpx.Headers) -> bytes | None:
    """The digest in `x-goog-hash: crc32c=…,md5=…` or `Content-MD5: …`, both base64."""
    found = re.search(r"md5=([A-Za-z0-9+/=]+)", headers.get("x-goog-hash", ""))
    encoded = found.group(1) if found else headers.get("Content-MD5")
    return base64.b64decode(encoded) if encoded else None


def md5_of(path: Path) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
