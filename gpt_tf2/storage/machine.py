"""What belongs to this user on this machine: a cache folder, and a key that tells own work from what was copied."""

import contextlib
import functools
import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, is_writable
from gpt_tf2.storage.locks import hold_lock

KEY_BYTES = 32


def user_cache() -> Path | None:
    """Return the user's cache folder for this program, or None if there is none that only this user can write to.

    It is `$XDG_CACHE_HOME/gpt-tf2` or `~/.cache/gpt-tf2`, or `/tmp/gpt-tf2-UID` where nothing can be written there.
    """
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        if is_writable(home / "gpt-tf2"):
            return home / "gpt-tf2"
    temporary = Path(tempfile.gettempdir()) / f"gpt-tf2-{os.getuid()}"
    try:
        temporary.mkdir(mode=0o700, exist_ok=True)
        entry = temporary.lstat()
    except OSError:
        return None
    is_own = entry.st_uid == os.getuid() and not entry.st_mode & 0o077 and stat.S_ISDIR(entry.st_mode)
    return temporary if is_own else None


def sign(content: bytes) -> str:
    """Return a signature that only this user on this machine can make: HMAC-SHA256 with the key in the cache folder."""
    return hmac.new(read_key(), content, "sha256").hexdigest()


def is_signed(content: bytes, signature: object) -> bool:
    """Check a signature of `sign`."""
    return isinstance(signature, str) and hmac.compare_digest(sign(content).encode(), signature.encode())


def read_key() -> bytes:
    """Read the key, which is made when it is first needed. Where it cannot be kept it lasts as long as the process."""
    folder = user_cache()
    if folder is None:
        return make_passing_key()
    path = folder / "key"
    try:
        if not is_key(path):
            with hold_lock(path, on_wait=lambda: None):
                if not is_key(path):
                    write_key(path)
        return path.read_bytes()
    except (OSError, InputError):
        return make_passing_key()


def is_key(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == KEY_BYTES


def write_key(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_bytes(secrets.token_bytes(KEY_BYTES))


@functools.cache
def make_passing_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)
