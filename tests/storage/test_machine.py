"""The user's cache folder and the key in it, also where there is no home folder to write to."""

import os
from pathlib import Path

import pytest

from gpt_tf2.storage import files, machine
from gpt_tf2.storage.machine import is_signed, sign, user_cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `home` and `tmp`."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    return tmp_path


def forbid_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_writable", lambda path: "home" not in path.parts and files.is_writable(path))


def test_only_the_key_signs(folder: Path) -> None:
    signature = sign(b"content")
    assert user_cache() == folder / "home/.cache/gpt-tf2" and is_signed(b"content", signature)
    for other in (sign(b"other"), signature.upper(), "", "ä", None, 3):
        assert not is_signed(b"content", other)
    key = folder / "home/.cache/gpt-tf2/key"
    assert key.stat().st_mode & 0o777 == 0o600 and [path.name for path in key.parent.iterdir()] == ["key"]
    key.write_bytes(os.urandom(32))
    assert not is_signed(b"content", signature)


def test_without_a_home_folder_to_write_to_the_key_lies_in_a_temporary_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_home(monkeypatch)
    signature = sign(b"content")
    own = folder / "tmp" / f"gpt-tf2-{os.getuid()}"
    assert user_cache() == own and own.stat().st_mode & 0o777 == 0o700 and (own / "key").is_file()
    assert is_signed(b"content", signature)


@pytest.mark.parametrize("is_link", [True, False])
def test_a_temporary_folder_that_others_can_write_to_is_not_trusted(
    is_link: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_home(monkeypatch)
    planted = folder / "tmp" / f"gpt-tf2-{os.getuid()}"
    if is_link:
        (folder / "theirs").mkdir(mode=0o700)
        planted.symlink_to(folder / "theirs")
    else:
        planted.mkdir()
        planted.chmod(0o777)
    signature = sign(b"content")
    assert user_cache() is None and is_signed(b"content", signature)
    assert not list((folder / "theirs" if is_link else planted).iterdir())
