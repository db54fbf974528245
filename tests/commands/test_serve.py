"""`serve` as a process: the address it prints, the key, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from gpt_tf2.cli import main
from helpers.markers import skip_on_jax
from helpers.processes import find_free_port
from helpers.serving import connect, wait_until
from helpers.workplace import ROOT

CLI = "import sys; from gpt_tf2.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `models/tiny`, converted for LiteRT."""
    from gpt_tf2 import load
    from helpers.workplace import fill_workplace

    folder = tmp_path_factory.mktemp("serve")
    fill_workplace(folder)
    load(folder / "models" / "tiny")
    return folder


def start(folder: Path, *flags: str, said: str = "", **environment: str) -> tuple[subprocess.Popen, str]:
    """A server of the model in a folder, once it has printed its address, and `said`."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, "serve", "tiny", "--port=0", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    address = re.fullmatch(r"serving tiny at (http://127\.0\.0\.1:\d+)(.*)\n", line)
    assert address and address[2] == said, line + process.communicate()[1]
    return process, address[1]


def accepts(url: str) -> bool:
    """Whether a server accepts a connection."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_ends_well_at_sigterm_after_what_runs_is_finished(folder: Path) -> None:
    logging = ", logging prompts and answers to log.jsonl"
    process, url = start(folder, "--drain=300", "--log_prompts=log.jsonl", said=logging, GPT_TF2_API_KEY="s3cret")
    assert httpx.get(f"{url}/v1/models").status_code == 401
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0)
    asked = {"prompt": "The tide", "max_tokens": 60, "extra_body": {"ignore_eos": True}}
    with client.completions.create(model="tiny", n=100, stream=True, **asked) as stream:
        chunks = iter(stream)
        next(chunks)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(url))
        with pytest.raises(openai.APIConnectionError):
            client.completions.create(model="tiny", **asked)
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    out, err = process.communicate(timeout=300)
    assert reasons == ["length"] * 100
    assert (process.returncode, out, err) == (0, "", "")
    assert len(json.loads((folder / "log.jsonl").read_text())["choices"]) == 100


@pytest.mark.slow
@pytest.mark.parametrize(("drain", "signals"), [("0", 1), ("300", 2)])
def test_what_runs_at_the_deadline_or_a_second_ctrl_c_is_told_so(folder: Path, drain: str, signals: int) -> None:
    process, url = start(folder, f"--drain={drain}", "--batch_size=1")
    asked = {"prompt": "The tide", "max_tokens": 60, "ignore_eos": True, "n": 128}
    with ThreadPoolExecutor(5) as threads:
        others = [threads.submit(httpx.post, f"{url}/v1/completions", json=asked, timeout=300) for _ in range(5)]
        with httpx.stream("POST", f"{url}/v1/completions", json=asked | {"stream": True}, timeout=300) as answer:
            lines = answer.iter_lines()
            next(lines)
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                wait_until(lambda: not accepts(url))
            last = [line for line in lines if line][-1]
        assert json.loads(last[6:])["error"]["code"] == "stopping"
        assert {other.result().status_code for other in others} in ({503}, {200, 503})
    _, err = process.communicate(timeout=300)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in err, err


@pytest.mark.slow
@skip_on_jax
def test_a_killed_server_leaves_nothing_behind(folder: Path) -> None:
    temporary = folder / "temporary"
    temporary.mkdir()
    before = sorted(folder.rglob("*"))
    port = find_free_port()
    for _ in range(2):  # the second finds the port free
        process, url = start(folder, f"--port={port}", "--batch_size=1", TMPDIR=str(temporary))
        asked = {"prompt": "The tide", "max_tokens": 60, "ignore_eos": True, "n": 128, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.kill()
            with pytest.raises(httpx.TransportError):
                list(lines)
        process.communicate(timeout=300)
        assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host=0.0.0.0"], ["--host 0.0.0.0", "--api_key", "GPT_TF2_API_KEY", "--no_auth"]),
        (["--host=no.such.host.invalid"], ["--host no.such.host.invalid", "no such address"]),
        (["--api_key=a", "--no_auth"], ["--no_auth", "contradicts --api_key"]),
        (["--api_key=a b"], ["--api_key", "without spaces"]),
        (["--log_prompts=models"], ["--log_prompts models", "is no file", "choose another path"]),
        (["--log_prompts=story.txt/log"], ["--log_prompts story.txt/log", "cannot be written", "choose another path"]),
        (["--port=70000"], ["--port 70000", "at most 65535"]),
        (["tiny"], ["two models are called tiny", "rename one"]),
        (["huge"], ["--model huge", "no such model"]),
        (["--memory=0.000001"], ["--memory 1e-06", "tiny needs", "raise it"]),
    ],
)
def test_bad_settings_are_one_line(
    folder: Path, flags: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GPT_TF2_API_KEY", raising=False)
    assert main(["serve", "--port=0", "tiny", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and all(word in captured.err for word in words), captured.err
    assert captured.out == ""


def test_a_port_in_use_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from gpt_tf2.serving.server import listen

    monkeypatch.chdir(folder)
    port = find_free_port()
    with listen("127.0.0.1", port):
        assert main(["serve", "tiny", f"--port={port}"]) == 2
    assert f"--port {port}: 127.0.0.1 cannot be listened on (Address already in use)" in capsys.readouterr().err


def test_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "gpt_tf2.serving.app", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert main(["serve", "tiny"]) == 2
    assert capsys.readouterr().err == "gpt-tf2 serve: serve needs starlette: run pip install '.[serve]'\n"
