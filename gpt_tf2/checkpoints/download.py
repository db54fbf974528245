"""Downloads over HTTP: a file has its name only when all its bytes are there, and are those of one file."""

import asyncio
import base64
import dataclasses
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import httpx

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import hash_file, sync_to_disk
from gpt_tf2.storage.json_text import read_json
from gpt_tf2.storage.locks import hold_lock

ATTEMPTS = 6  # in a row that bring less than WINDOW new bytes
STALL = 60.0  # seconds in which an answer must begin, and then bring each WINDOW of bytes
WINDOW = 1 << 16  # bytes: about 1 KB/s
LARGEST = 1 << 40  # bytes
ERRNO = re.compile(r"^\[Errno -?\d+\] ")
TRY_AGAIN = "check the network, or try again later"
Show = Callable[[int, int | None], None]


class TransferError(Exception):
    """A failed transfer that is worth another attempt."""


@dataclasses.dataclass(frozen=True)
class Version:
    """What a server announced of the file whose first bytes have arrived: other bytes must not follow them.

    Lies beside `PATH.part` in `PATH.part.json`, if there is an ETag. etag: a strong one. md5: in hexadecimal digits.
    """

    url: str
    etag: str | None = None
    md5: str | None = None


def download_file(
    url: str,
    path: Path,
    show: Show = lambda done, total: None,
    wait: float = 1.0,
    find_damage: Callable[[Path], str] = lambda path: "",
    largest: int = LARGEST,
) -> None:
    """Download a file unless it exists and is whole.

    The bytes go to `PATH.part`, where a later call resumes if the server shows that it still has the same file. The
    file gets its name once it has the length and the MD5 that the server announced (`x-goog-hash`, `Content-MD5`) and
    `find_damage` finds none; a damaged one is fetched a second time. Connection errors, time-outs and the answers 429
    and 5xx are retried after `wait` seconds, then after twice that, and so on. If another process downloads the same
    file, this one waits for it.

    Args:
        url: begins with `https://` or `http://`. A redirect from the first to the second is refused.
        path: the file to write.
        show: is called with the bytes so far and the total, which is None if the server does not announce it.
        wait: seconds.
        find_damage: returns what is wrong with a file, for a message, or an empty text.
        largest: the most bytes that the file can have.

    Raises InputError if the server refuses, keeps failing or sends other bytes than it announced, or if the file cannot
    be written.

    Example:
        >>> download_file(f"{BASE_URL}/124M/hparams.json", Path("hparams.json"))  # doctest: +SKIP
    """
    try:
        if path.exists() and not find_damage(path):
            return
        waiting = f"{path}: another process is downloading it: waiting"
        with hold_lock(path, lambda: print(waiting, file=sys.stderr)):
            if path.exists():
                damage = find_damage(path)
                if not damage:
                    return
                print(one_line(f"{path}: {damage}: fetching it again"), file=sys.stderr)
            part = path.with_name(path.name + ".part")
            for _ in range(2):
                damage = fetch_whole(url, part, show, wait, find_damage, largest)
                if not damage:
                    break
            else:
                raise InputError(f"{one_line(url)}: {one_line(damage)}: check the address, or try again later")
            sync_to_disk(part)
            version_path(part).unlink(missing_ok=True)
            part.replace(path)
            sync_to_disk(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}): free space and try again") from None


def fetch_whole(url: str, part: Path, show: Show, wait: float, find_damage: Callable[[Path], str], largest: int) -> str:
    """Fetch a file into `part`. Returns what is wrong with it, having deleted it, or an empty text."""
    md5 = asyncio.run(fetch(url, part, show, wait, largest))
    if md5 and hash_file(part, "md5").hexdigest() != md5:
        damage = "the MD5 differs from the server's, so the file was damaged on its way"
    else:
        damage = find_damage(part)
    if damage:
        discard(part)
    return damage


async def fetch(url: str, part: Path, show: Show, wait: float, largest: int) -> str | None:
    """Fetch what `part` lacks, in as many attempts as that takes. Returns the file's MD5 if the server has one."""

    async def check_address(request: httpx.Request) -> None:
        if url.lower().startswith("https:") and request.url.scheme != "https":
            problem = f"the server redirects to {request.url.scheme}, where anyone can change the file"
            raise InputError(f"{one_line(url)}: {problem}: try another server")
        if (request.url.port or 0) > 65535:
            raise InputError(f"{one_line(url)}: no port {request.url.port}: check the address")

    failures, most = 0, file_size(part)
    try:
        hooks = {"request": [check_address]}
        async with httpx.AsyncClient(timeout=STALL, follow_redirects=True, event_hooks=hooks) as client:
            while True:
                try:
                    return await fetch_rest(client, url, part, show, largest)
                except (httpx.LocalProtocolError, httpx.UnsupportedProtocol):
                    raise
                except (httpx.TransportError, TransferError, asyncio.TimeoutError) as error:
                    failures = 1 if file_size(part) >= most + WINDOW else failures + 1
                    most = max(most, file_size(part))
                    if failures == ATTEMPTS:
                        is_slow = isinstance(error, asyncio.TimeoutError | httpx.TimeoutException)
                        slow = f"no more than {WINDOW:,} bytes in {STALL:g} s"
                        reason = ERRNO.sub("", str(error)) or (slow if is_slow else "the connection broke")
                        raise InputError(f"{one_line(url)}: {one_line(reason)}: {TRY_AGAIN}") from None
                await asyncio.sleep(wait * 2 ** (failures - 1))
    except InputError:
        raise
    except httpx.TooManyRedirects:
        raise InputError(f"{one_line(url)}: the server redirects without end: check the address") from None
    except (httpx.InvalidURL, httpx.RequestError, ValueError, ImportError) as error:
        problem = one_line(f"{url}: {error}")
        raise InputError(f"{problem}: give an address that begins with https://") from None


async def fetch_rest(client: httpx.AsyncClient, url: str, part: Path, show: Show, largest: int) -> str | None:
    """Append to `part` the bytes that it lacks. Returns the file's MD5 if the server announces or announced one."""
    size, known = file_size(part), read_version(part, url)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    if size and known.etag:
        headers["If-Range"] = known.etag
    request = client.build_request("GET", url, headers=headers)
    response = await asyncio.wait_for(client.send(request, stream=True), STALL)
    try:
        check_answer(response, url)
        version = announced_version(response, url)
        total: int | None
        if response.status_code == 200:  # the server sends the whole file
            size, total = 0, announced_length(response)
            if total is None and "Transfer-Encoding" not in response.headers:
                raise InputError(f"{one_line(url)}: the server does not say how long the file is: try another server")
        else:
            total = find_total(response, size)
            if total is None or not is_same_file(known, version):
                discard(part)
                raise TransferError("the server does not send the rest of the file")
            version = dataclasses.replace(known, md5=known.md5 or version.md5)
            if total == size:  # the last process was killed when it had the last byte
                return version.md5
        most = largest if total is None else total
        if most > largest:
            raise InputError(f"{one_line(url)}: has {most:,} bytes, not at most {largest:,}: check the address")
        with part.open("ab" if size else "wb") as file:
            write_version(part, version)
            chunks = response.aiter_raw()  # without a chunk size, which would lose the end of a broken transfer
            while size <= most and (new := await asyncio.wait_for(copy_window(chunks, file), STALL)):
                size += new
                show(size, total)
        if size > most:
            discard(part)
            raise TransferError(f"more than {most:,} bytes arrived")
        if total is not None and size != total:
            raise TransferError(f"{size:,} of {total:,} bytes arrived")
        return version.md5
    finally:
        await response.aclose()


async def copy_window(chunks: AsyncIterator[bytes], file: IO[bytes]) -> int:
    """Write about `WINDOW` of the bytes that arrive, and return their number: 0 at the end."""
    size = 0
    async for chunk in chunks:
        file.write(chunk)
        size += len(chunk)
        if size >= WINDOW:
            break
    return size


def check_answer(response: httpx.Response, url: str) -> None:
    """Raise TransferError for an answer that may get better, and InputError for one that will not."""
    status = response.status_code
    if status == 429 or status >= 500:
        raise TransferError(f"the server answers {status}")
    if status not in (200, 206, 416):
        raise InputError(f"{one_line(url)}: the server answers {status}: check the model's size and `base_url`")
    if status == 416:
        return
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise InputError(
            f"{one_line(url)}: the server sends the file encoded ({one_line(encoding)}): try another server"
        )
    if re.match(r"\s*(text/html|application/xhtml)", response.headers.get("Content-Type", "").lower()):
        problem = "the server sends a web page instead of the file"
        raise InputError(f"{one_line(url)}: {problem}: check the address, and whether this network asks for a login")


def announced_length(response: httpx.Response) -> int | None:
    """The bytes of an answer. Raises TransferError if the header cannot be understood."""
    length = response.headers.get("Content-Length")
    if length is not None and not re.fullmatch(r"[0-9]{1,15}", length):
        raise TransferError(f"the server announces a length of {length!r}")
    return None if length is None else int(length)


def announced_version(response: httpx.Response, url: str) -> Version:
    """What an answer says of the whole file. `Content-MD5` of a part of the file is that of the part."""
    etag = response.headers.get("ETag", "")
    match = re.search(r"md5=([A-Za-z0-9+/=]+)", response.headers.get("x-goog-hash", ""))
    whole = response.headers.get("Content-MD5") if response.status_code == 200 else None
    encoded = match.group(1) if match else response.headers.get("x-ms-blob-content-md5") or whole
    try:
        md5 = base64.b64decode(encoded, validate=True).hex() if encoded else None
    except ValueError:
        md5 = ""
    if md5 is not None and len(md5) != 32:
        raise TransferError(f"the server announces {encoded!r}, which is no MD5")
    return Version(url, etag if re.fullmatch(r'"[!#-~]+"', etag) else None, md5)


def find_total(response: httpx.Response, size: int) -> int | None:
    """The bytes of the file, if the answer is all that follows its first `size` bytes, which may be nothing."""
    match = re.fullmatch(
        r"bytes (?:([0-9]{1,15})-([0-9]{1,15})|\*)/([0-9]{1,15})", response.headers.get("Content-Range", "")
    )
    if not match:
        return None
    first, last, total = (None if group is None else int(group) for group in match.groups())
    if response.status_code == 416:
        return total if first is None and total == size > 0 else None
    if first is None or last is None or total is None:
        return None
    rest = total - size
    return total if first == size > 0 and last + 1 == total and announced_length(response) in (None, rest) else None


def is_same_file(known: Version, version: Version) -> bool:
    """Whether an answer continues the file that is known, or an MD5 will show whether it does."""
    if (known.etag and version.etag and known.etag != version.etag) or (
        known.md5 and version.md5 and known.md5 != version.md5
    ):
        return False
    return bool((known.etag and version.etag) or known.md5 or version.md5)


def version_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def write_version(part: Path, version: Version) -> None:
    """Write what was announced of a file, before more of its bytes are: a kill in between leaves none of another's."""
    if version.etag:
        version_path(part).write_text(json.dumps(dataclasses.asdict(version)), encoding="utf-8")
    else:
        version_path(part).unlink(missing_ok=True)


def read_version(part: Path, url: str) -> Version:
    """What was announced of a part, as far as it was this server that announced it."""
    try:
        values: Any = read_json(version_path(part))
        version = Version(**values)
    except (InputError, TypeError):
        return Version(url)
    is_valid = re.fullmatch(r'"[!#-~]+"', str(version.etag)) and re.fullmatch("[0-9a-f]{32}|None", str(version.md5))
    return version if version.url == url and is_valid else Version(url)


def discard(part: Path) -> None:
    """Delete a part and what is known of it."""
    part.unlink(missing_ok=True)
    version_path(part).unlink(missing_ok=True)


def file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def one_line(text: str) -> str:
    """At most 120 characters of a text that a server or a user chose, without any that moves the cursor."""
    return "".join(character if character.isprintable() else "?" for character in text[:120])
