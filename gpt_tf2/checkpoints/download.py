"""Downloads of OpenAI's released models: a file is there only when it is complete."""

import base64
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import sync_to_disk

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"
FILES = (
    "checkpoint",
    "encoder.json",
    "hparams.json",
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
    "model.ckpt.meta",
    "vocab.bpe",
)
ATTEMPTS = 6  # in a row that bring no new byte
CHUNK = 1 << 20  # bytes hashed at a time
Show = Callable[[int, int | None], None]


class TransferError(Exception):
    """A failed transfer that is worth another attempt."""


def download_file(url: str, path: Path, show: Show = lambda done, total: None, wait: float = 1.0) -> None:
    """Downloads a file unless it exists.

    The bytes go to `PATH.part`, where a later call resumes. The file gets its name once it has the length and the MD5
    that the server announced (`x-goog-hash` or `Content-MD5`). Connection errors, time-outs and the answers 429 and 5xx
    are retried after `wait` seconds, then after twice that, and so on.

    Args:
        show: is called with the bytes so far and the total, which is None if the server does not announce it.

    Raises InputError if the server refuses, keeps failing or sends other bytes than it announced, or if the file cannot
    be written.

    Example:
        >>> download_file(f"{BASE_URL}/124M/hparams.json", Path("hparams.json"))  # doctest: +SKIP
    """
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    failures = 0
    with httpx.Client(timeout=30, follow_redirects=True) as client:
        while True:
            size_before = file_size(part)
            try:
                md5 = fetch_rest(client, url, part, show)
                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise InputError(f"{url}: {error}: give an address that begins with https://") from None
            except (httpx.TransportError, TransferError) as error:
                failures = 1 if file_size(part) > size_before else failures + 1
                if failures == ATTEMPTS:
                    raise InputError(f"{url}: {error}: check the network, or try again later") from None
                time.sleep(wait * 2 ** (failures - 1))
            except OSError as error:
                raise InputError(f"{part}: cannot be written ({error.strerror}): free space and try again") from None
    if md5 and hash_md5(part) != md5:
        part.unlink()
        raise InputError(f"{url}: the MD5 differs from the server's, so the file was damaged on its way: try again")
    sync_to_disk(part)
    part.replace(path)
    sync_to_disk(path.parent)


def fetch_rest(client: httpx.Client, url: str, part: Path, show: Show) -> bytes | None:
    """Appends to `part` the bytes that it lacks, and returns the file's MD5 if the server announces one."""
    size = file_size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 429 or response.status_code >= 500:
            raise TransferError(f"the server answers {response.status_code}")
        if response.status_code == 416:  # the part is complete, or longer than the file
            part.unlink()
            raise TransferError("the server has no such range")
        if response.status_code not in (200, 206):
            answer = f"the server answers {response.status_code}"
            raise InputError(f"{url}: {answer}: check the model's size and `base_url`")
        if response.status_code == 200:
            size = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        with part.open("ab" if size else "wb") as file:
            for chunk in response.iter_raw():  # without a chunk size, which would lose the end of a broken transfer
                file.write(chunk)
                size += len(chunk)
                show(size, total)
        if total is not None and size != total:
            raise TransferError(f"{size} of {total} bytes arrived")
        return read_md5(response.headers)


def read_md5(headers: httpx.Headers) -> bytes | None:
    """The MD5 in `x-goog-hash: crc32c=…,md5=…` or `Content-MD5: …`, both in base64."""
    match = re.search(r"md5=([A-Za-z0-9+/=]+)", headers.get("x-goog-hash", ""))
    encoded = match.group(1) if match else headers.get("Content-MD5")
    return base64.b64decode(encoded) if encoded else None


def hash_md5(path: Path) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
