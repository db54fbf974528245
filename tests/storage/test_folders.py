"""Folders written whole or not at all."""

from pathlib import Path

import pytest

from gpt_tf2 import InputError
from gpt_tf2.storage.folders import new_folder, stage
from helpers.workplace import list_names


def write(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "a").write_text("a")
        assert not path.exists() or not list_names(path)


def test_a_folder_appears_with_its_files(tmp_path: Path) -> None:
    write(tmp_path / "above" / "new")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert list_names(tmp_path) == ["above", "empty"] and list_names(tmp_path / "above") == ["new"]
    assert list_names(tmp_path / "empty") == list_names(tmp_path / "above" / "new") == ["a"]


def test_a_folder_that_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "new") as folder:
        (folder / "a").touch()
        raise KeyboardInterrupt
    assert not list_names(tmp_path)


def test_what_was_tried_out_replaces_the_former(tmp_path: Path) -> None:
    (tmp_path / "former").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "former")
    with pytest.raises(InputError, match=f"^{tmp_path}/link: too large$"), stage(tmp_path / "link") as written:
        written.write_text("new")
        raise InputError(f"{written}: too large")
    assert (tmp_path / "former").read_text() == "old" and list_names(tmp_path) == ["former", "link"]
    with stage(tmp_path / "link") as written:
        written.write_text("new")
    assert (tmp_path / "former").read_text() == "new" and (tmp_path / "link").is_symlink()
    with stage(tmp_path / "folder") as written, new_folder(written) as folder:
        (folder / "a").touch()
    assert list_names(tmp_path) == ["folder", "former", "link"] and list_names(tmp_path / "folder") == ["a"]


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(InputError, match=f"{name}: is there already: remove it, or choose another output"):
            write(tmp_path / name)
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "new")
    assert list_names(tmp_path) == ["file", "full"] and list_names(tmp_path / "full") == ["mine"]
