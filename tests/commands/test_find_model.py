"""What `--model` means: a name in `models/`, a path, or a released size, which is downloaded where it is missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints import adapters
from gpt_tf2.checkpoints.formats import open_adapters
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.checkpoints.released import DATA, FILES, INDEX, META, is_downloaded
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.cli import main
from gpt_tf2.commands.find_model import find_model_path, find_on_machine
from gpt_tf2.config import adapter_shapes
from gpt_tf2.errors import InputError
from helpers.commands import FINETUNE
from helpers.raw_http import RawServer, head, raw_server
from helpers.workplace import OPENAI_TINY, ROOT, list_names

GENERATE = ["generate", "--model=124M", "--prompt=The", "--max_new_tokens=3", "--seed=1", "--engine=graph"]
ETAG = '"one"'


def read_file(name: str) -> bytes:
    """A file of the model that the server calls 124M, a small one."""
    return b"\n\x04meta\x12\x05graph\x22\x00" if name == META else (OPENAI_TINY / name).read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of 124M in the cache folder, which is empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gpt-tf2" / "models" / "124M"


@pytest.fixture
def server(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    """A server of 124M; the current folder is empty."""

    def answer(path: str, headers: dict[str, str]) -> Iterator[bytes]:
        content = read_file(path.removeprefix("/models/124M/"))
        if start := int(headers.get("range", "bytes=0-")[6:-1]):
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            yield head(206, Content_Length=len(content) - start, Content_Range=place, ETag=ETAG) + content[start:]
        else:
            yield head(200, Content_Length=len(content), ETag=ETAG) + content

    monkeypatch.chdir(tmp_path)
    with raw_server(answer) as server:
        monkeypatch.setenv("GPT_TF2_BASE_URL", f"{server.url}/models")
        yield server


def test_a_released_size_is_downloaded_once_and_stdout_holds_only_the_text(
    server: RawServer, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(GENERATE) == 0
    text, err = capsys.readouterr()
    assert text.startswith("The") and "download" not in text
    assert f"downloading 124M, 0.5 GB, to {cache}\n" in err and "not OpenAI's 124M" in err
    assert list_names(Path()) == ["cache"] and {*FILES} <= {*list_names(cache)}
    assert [path for path, _ in server.asked] == [f"/models/124M/{name}" for name in FILES]
    assert main([*GENERATE, "--offline"]) == 0
    again, err = capsys.readouterr()
    assert again == text and "downloading" not in err and len(server.asked) == len(FILES)


def test_offline_a_missing_model_is_one_line(
    server: RawServer, workplace: Path, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("p.txt").write_text("The boats.")
    for line in (
        "generate",
        "chat 124M --passage=p.txt",
        "evaluate --data=story.txt",
        "finetune --data=story.txt",
    ):
        assert main([*line.split(), "--offline"]) == 2
        fix = "run gpt-tf2 download 124M where there is a network, or give a path"
        err = capsys.readouterr().err
        assert err == f"gpt-tf2 {line.split()[0]}: --offline: 124M is not on this machine: {fix}\n"
    assert server.asked == [] and list_names(workplace) == ["models", "p.txt", "story.txt"]


def test_models_takes_precedence_over_a_path_and_the_cache(server: RawServer, cache: Path) -> None:
    assert find_model_path("124M") == cache
    shutil.copytree(OPENAI_TINY, "124M")
    assert find_model_path("124M") == Path("124M")
    shutil.copytree(OPENAI_TINY, "models/124M")
    assert find_model_path("124M") == Path("models/124M")
    assert find_model_path("models/124M/model.ckpt") == Path("models/124M/model.ckpt")
    assert find_model_path("124M/model.ckpt") == Path("124M/model.ckpt")  # a path, not a name
    Path("deep").mkdir()
    shutil.copytree("124M", "deep/m")
    shutil.copytree("124M", "m")
    os.chdir("deep/m")
    assert find_model_path("../../m") == Path("../../m")
    assert len(server.asked) == len(FILES)


def test_a_download_that_was_broken_off_is_resumed(server: RawServer, cache: Path) -> None:
    find_model_path("124M")
    content, half = read_file(DATA), len(read_file(DATA)) // 2
    (cache / DATA).unlink()
    (cache / INDEX).unlink()
    (cache / f"{DATA}.part").write_bytes(content[:half])
    url = f"{server.url}/models/124M/{DATA}"
    (cache / f"{DATA}.part.json").write_text(f'{{"url": "{url}", "etag": "\\"one\\"", "md5": null}}')
    server.asked.clear()
    assert find_on_machine("124M") is None and find_model_path("124M") == cache
    assert [(path.rpartition("/")[2], headers.get("range")) for path, headers in server.asked] == [
        (DATA, f"bytes={half}-"),
        (INDEX, None),
    ]
    assert (cache / DATA).read_bytes() == content and is_downloaded(cache, None)


def test_a_download_that_was_begun_in_models_is_finished_there(server: RawServer, cache: Path) -> None:
    Path("models/124M").mkdir(parents=True)
    Path("models/124M/hparams.json").write_bytes(read_file("hparams.json"))
    assert find_model_path("124M") == Path("models/124M") and not cache.exists()
    assert len(server.asked) == len(FILES) - 1


def test_weights_of_another_length_are_fetched_again(server: RawServer, cache: Path) -> None:
    find_model_path("124M")
    (cache / DATA).write_bytes(read_file(DATA)[:-4])
    assert find_model_path("124M") == cache and (cache / DATA).read_bytes() == read_file(DATA)
    assert len(server.asked) == len(FILES) + 1


def test_another_servers_model_is_not_taken_for_openais(
    server: RawServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_model_path("124M") == cache
    monkeypatch.delenv("GPT_TF2_BASE_URL")
    with pytest.raises(InputError, match="124M is not on this machine"):
        find_model_path("124M", offline=True)


def test_two_processes_download_a_model_together(server: RawServer, cache: Path) -> None:
    code = "from gpt_tf2.commands.find_model import find_model_path; print(find_model_path('124M'))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [f"{cache}\n"] * 2
    assert len(server.asked) == len(FILES)


def test_finetuning_starts_from_the_cache_and_adapters_name_it(server: RawServer, workplace: Path, cache: Path) -> None:
    flags = [flag for flag in FINETUNE.split() if flag != "--model=tiny"]
    assert main([*flags, "--model=124M", "--lora_rank=2"]) == 0
    trained = Path("output/story_124M.h5")
    assert open_adapters(trained).bases[-1] == str(cache / "model.ckpt")


def test_adapters_on_another_machine_fetch_the_released_model_that_they_belong_to(
    server: RawServer, workplace: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    base = open_model("models/tiny")
    digests = {name: base.checkpoint.read_with_digest(name)[1] for name in base.checkpoint.shapes}
    elsewhere = Path("/home/ada/.cache/gpt-tf2/models/124M/model.ckpt")
    factors = {name: np.zeros(shape, "float32") for name, shape in adapter_shapes(base.config, 2).items()}
    adapters.write(Path("style.h5"), base.config, adapters.Base(elsewhere, digests, base.tokenizer.digest), factors)
    assert main(["generate", "--model=style.h5", "--offline"]) == 2
    assert "--offline: 124M is not on this machine: run gpt-tf2 download 124M" in capsys.readouterr().err
    assert find_model_path("style.h5") == Path("style.h5") and is_downloaded(cache, None)
    assert find_model_path("style.h5", offline=True) == Path("style.h5") and len(server.asked) == len(FILES)
    save_vocabulary(base.tokenizer, Path("style.h5"))
    model = open_model("style.h5")
    assert model.sources[1:] == tuple(cache / name for name in (INDEX, DATA))
    assert (model.checkpoint.read("wte") == base.checkpoint.read("wte")).all()


def test_a_model_ckpt_needs_no_download(server: RawServer, workplace: Path, cache: Path) -> None:
    flags = [flag for flag in FINETUNE.split() if flag != "--model=tiny"]
    assert main([*flags, "--model_ckpt=models/tiny/model.ckpt"]) == 0
    assert server.asked == [] and Path("output/story_124M.h5").is_file()


def test_a_wrong_name_is_an_error_that_names_those_near_it(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    Path("output").mkdir()
    Path("output/story_tiny.h5").touch()
    for typed, near in (("tny", "models/tiny"), ("output/story_tny.h5", "output/story_tiny.h5")):
        with pytest.raises(
            InputError, match=rf"^model={typed}: no such model \(near: {near}\): give 124M, .*1558M, a path"
        ):
            find_model_path(typed)
    assert main(["plan", "--model=2B"]) == 2
    assert capsys.readouterr().err == (
        "gpt-tf2 plan: --model 2B: no such model: give 124M, 355M, 774M, 1558M, a path or hf://owner/name\n"
    )
