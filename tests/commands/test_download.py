"""The command `download`: seven files that belong together, from OpenAI or from another server."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_tf2.checkpoints import download as transfer
from gpt_tf2.checkpoints import released
from gpt_tf2.checkpoints.released import DATA, ENCODER, FILES, HPARAMS, INDEX, MERGES, META
from gpt_tf2.cli import main
from helpers.processes import run_script
from helpers.raw_http import RawServer, head, raw_server
from helpers.workplace import OPENAI_TINY, list_names

DOWNLOAD = ["download", "124M", "--folder=models"]
Contents = dict[str, bytes]


@pytest.fixture
def contents() -> Contents:
    """The files that the server sends, by name: a whole small model."""
    meta = b"\n\x04meta\x12\x05graph\x22\x00"  # fields 1, 2 and 4 of a protocol buffer
    return {name: meta if name == META else (OPENAI_TINY / name).read_bytes() for name in FILES}


@pytest.fixture
def server(contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    def answer(path: str, headers: dict[str, str]) -> Iterator[bytes]:
        folder, _, name = path.rpartition("/")
        assert folder == "/models/124M"
        yield head(200, Content_Length=len(contents[name])) + contents[name]

    monkeypatch.chdir(tmp_path)
    with raw_server(answer) as server:
        monkeypatch.setenv("GPT_TF2_BASE_URL", f"{server.url}/models/")
        yield server


def test_each_file_is_fetched_once(server: RawServer, contents: Contents) -> None:
    assert main(DOWNLOAD) == 0
    assert {path.name: path.read_bytes() for path in Path("models/124M").iterdir()} == contents
    assert list_names(Path("models")) == ["124M"]
    assert [path for path, _ in server.asked] == [f"/models/124M/{name}" for name in FILES]
    assert main(DOWNLOAD) == 0
    assert len(server.asked) == 7


def test_without_a_folder_the_users_cache_gets_it_and_stdout_only_its_path(
    server: RawServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["download", "124M"]) == 0
    folder = tmp_path / "cache/gpt-tf2/models/124M"
    assert capsys.readouterr().out == f"{folder}\n" and list_names(folder) == sorted(FILES)
    assert list_names(tmp_path) == ["cache"]


def test_the_script_of_2019_fills_models(server: RawServer, tmp_path: Path) -> None:
    script = run_script("download_model.py", "124M", folder=tmp_path)
    assert (script.returncode, script.stdout) == (0, "models/124M\n")
    assert list_names(tmp_path / "models/124M") == sorted(FILES)


def test_another_servers_model_is_said_to_be_another(server: RawServer, capsys: pytest.CaptureFixture) -> None:
    assert main(DOWNLOAD) == 0
    line = (
        f"models/124M: not OpenAI's 124M, which has another {ENCODER}, {HPARAMS}, {DATA}, {INDEX}, {META}, {MERGES}\n"
    )
    assert capsys.readouterr().err == line


def replace(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


DAMAGED = {
    # Without its last byte, vocab.bpe means the same: only the length shows it.
    **{f"{name} without its last byte": (name, lambda content: content[:-1]) for name in FILES if name != MERGES},
    **{f"{name} with a byte more": (name, lambda content: content + b"x") for name in FILES},
    **{f"{name} empty": (name, lambda content: b"") for name in FILES},
    **{f"{name} a web page": (name, lambda content: b"<!doctype html>\n<title>Login</title>\n") for name in FILES},
    "no table of ids": (ENCODER, lambda content: b"[]"),
    "an id twice": (ENCODER, lambda content: replace(content, b": 0,", b": 1,")),
    "an id too many": (ENCODER, lambda content: replace(content, b"{", b'{"zzzz": 512, ')),
    "other tokens": (ENCODER, lambda content: json.dumps({f"t{i}": i for i in range(512)}).encode()),
    "nested JSON": (ENCODER, lambda content: b"[" * 100_000),
    "a number of 5,000 digits": (HPARAMS, lambda content: b'{"n_vocab": ' + b"9" * 5000 + b"}"),
    "a merge too few": (MERGES, lambda content: content[: content.rindex(b"\n", 0, -1) + 1]),
    "a thousand million layers": (HPARAMS, lambda content: replace(content, b'"n_layer": 3', b'"n_layer": 1000000000')),
    "other hyper-parameters": (HPARAMS, lambda content: replace(content, b'"n_vocab": 512', b'"n_vocab": 513')),
    "no magic number": (INDEX, lambda content: content[:-8] + bytes(8)),
    "no end of a field": (META, lambda content: b"\n\x04meta\x12\xff"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_gets_no_name(
    case: str, server: RawServer, contents: Contents, capsys: pytest.CaptureFixture
) -> None:
    name, damage = DAMAGED[case]
    contents[name] = damage(contents[name])
    assert main(DOWNLOAD) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) <= 320 and "Traceback" not in err
    assert "check the address" in err
    missing = set(FILES) - set(list_names(Path("models/124M")))
    assert missing and missing.issuperset({name} - {HPARAMS})


def test_a_damaged_file_on_disk_is_fetched_again(
    server: RawServer, contents: Contents, capsys: pytest.CaptureFixture
) -> None:
    assert main(DOWNLOAD) == 0
    (Path("models/124M") / INDEX).write_bytes(contents[INDEX][:-9])
    capsys.readouterr()
    assert main(DOWNLOAD) == 0
    assert f"{INDEX}: not a whole {INDEX}: fetching it again\n" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("models/124M").iterdir()} == contents
    assert len(server.asked) == 8


def test_openais_server_must_send_the_released_files(
    server: RawServer, contents: Contents, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(released, "BASE_URL", f"{server.url}/models")
    monkeypatch.delenv("GPT_TF2_BASE_URL")
    assert main(DOWNLOAD) == 2
    assert f"{HPARAMS}: its SHA-256 is not that of OpenAI's file" in capsys.readouterr().err
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(released, "SHA256", {"124M": hashes})
    monkeypatch.setattr(released, "SIZES", {"124M": released.GPT2Config(512, 64, 48, 4, 3)})
    contents[DATA] = bytes(len(contents[DATA]))
    assert main(DOWNLOAD) == 2
    assert f"{DATA}: its SHA-256 is not that of OpenAI's file" in capsys.readouterr().err
    contents[DATA] = (OPENAI_TINY / DATA).read_bytes()
    assert main(DOWNLOAD) == 0
    assert capsys.readouterr().err == ""


def test_a_model_without_published_hashes_must_have_its_hyper_parameters(tmp_path: Path) -> None:
    path = tmp_path / HPARAMS
    path.write_text(released.SIZES["355M"].to_json())
    assert released.find_damage(path, HPARAMS, "355M") == ""
    assert released.find_damage(path, HPARAMS, "774M") == "not the hyper-parameters of 774M"


def test_gpt2s_own_vocabulary_has_the_published_hashes(gpt2_vocabulary: tuple[Path, Path]) -> None:
    for path in gpt2_vocabulary:
        assert released.find_damage(path, path.name, "124M") == ""


def test_weights_of_another_size_are_not_fetched(
    server: RawServer, contents: Contents, capsys: pytest.CaptureFixture
) -> None:
    contents[DATA] += bytes(transfer.WINDOW)
    assert main(DOWNLOAD) == 2
    assert f"has {len(contents[DATA]):,} bytes, not at most 450,240" in capsys.readouterr().err
    assert f"{DATA}.part" not in list_names(Path("models/124M"))
