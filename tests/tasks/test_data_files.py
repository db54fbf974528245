"""The files of a data set: folders, links, globs, paths with brackets, and streams."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.tasks.data_files import folder_of, is_stream, list_files, split_glob


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, whose own name has brackets, with some files."""
    home = tmp_path / "my [home]"
    for name in ("data/a.txt", "data/b/c.txt", "data/b/[d].txt", "data/.gpt_tf2/x", "[x]/e.txt", "x/f.txt", "other/o"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    monkeypatch.chdir(home)
    return home


@pytest.mark.parametrize(
    ("dataset_path", "files", "home"),
    [
        ("data", ["data/a.txt", "data/b/[d].txt", "data/b/c.txt"], "data"),
        ("data/a.txt", ["data/a.txt"], "data"),
        ("data/*.txt", ["data/a.txt"], "data"),
        ("data/**/*.txt", ["data/a.txt", "data/b/[d].txt", "data/b/c.txt"], "data"),
        ("data/b/[d].txt", ["data/b/[d].txt"], "data/b"),
        ("data/b/[cd].txt", ["data/b/c.txt"], "data/b"),
        ("[x]", ["[x]/e.txt"], "[x]"),
        ("[x]/*.txt", ["[x]/e.txt"], "[x]"),
        ("[wx]/*.txt", ["x/f.txt"], "."),
        ("no", [], "."),
        ("no/*.txt", [], "."),
        ("", [], "."),
    ],
)
def test_a_path_that_exists_is_never_a_glob(dataset_path: str, files: list[str], home: str, folder: Path) -> None:
    assert list(list_files(dataset_path)) == files
    assert folder_of(dataset_path) == Path(home)
    if dataset_path:
        assert list(list_files(str(folder / dataset_path))) == [str(folder / name) for name in files]
        assert folder_of(str(folder / dataset_path)) == folder / home


def link(name: str, target: str) -> Callable[[], None]:
    return lambda: Path(name).symlink_to(target)


@pytest.mark.parametrize(
    ("links", "more"),
    [
        ([link("data/link", "../other")], ["data/link/o"]),
        ([link("data/link", "../other"), link("data/link2", "../other")], ["data/link/o"]),
        ([link("data/a_link", "b")], []),  # it is walked anyway
        ([link("data/b/up", "..")], []),
        ([link("data/self", ".")], []),
        ([link("other/back", "../data"), link("data/link", "../other")], ["data/link/o"]),
    ],
)
def test_a_linked_folder_is_followed_once(links: list[Callable[[], None]], more: list[str], folder: Path) -> None:
    for act in links:
        act()
    expected = sorted(["data/a.txt", "data/b/[d].txt", "data/b/c.txt", *more])
    assert list(list_files("data")) == expected
    assert sorted(map(os.path.realpath, list_files("data/**/*.txt"))) == sorted(
        os.path.realpath(path) for path in expected if path.endswith(".txt")
    )


def test_a_link_to_a_folder_is_that_folder(folder: Path) -> None:
    Path("alias").symlink_to("data")
    assert list(list_files("alias")) == ["alias/a.txt", "alias/b/[d].txt", "alias/b/c.txt"]


def test_a_pattern_begins_where_the_path_ends(folder: Path) -> None:
    assert split_glob("data/**/*.txt") == ("data", "**/*.txt")
    assert split_glob("*.txt") == ("", "*.txt")
    assert split_glob("[x]/[ef].txt") == ("[x]", "[ef].txt")


def test_a_stream_is_read_once(folder: Path) -> None:
    os.mkfifo("pipe")
    assert is_stream("-") and is_stream("/dev/stdin") and is_stream("/dev/fd/0") and is_stream("pipe")
    assert not is_stream("data") and not is_stream("data/a.txt") and not is_stream("no")
    assert list(list_files("-")) == ["-"] and list(list_files("pipe")) == ["pipe"]
