"""`generate`: what the model is given, why a sample ends, and when samples are written."""

import io
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_tf2 import InputError
from gpt_tf2.cli import main
from gpt_tf2.commands import generate as module
from gpt_tf2.commands.generate import GenerateSettings, Sample, generate_samples, list_starters, unescape
from helpers.workplace import list_names

PROMPTS = [
    "$\\nabla f \\neq 0$",
    "C:\\new\\notes",
    'He said \\"no\\"',
    "Page one.\fPage two\u2028three\x85four ",
    "été",
]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"One\nTwo", "One\nTwo"),
        (r"One\\nTwo", r"One\nTwo"),
        (r"One\\\nTwo", r"One\\nTwo"),
        (r"C:\\temp \t \\", r"C:\\temp \t \\"),
        (r"\'a\' \\\"b\"", r"""'a' \\"b" """.strip()),
    ],
)
def test_a_typed_starter_keeps_its_escapes(typed: str, meant: str) -> None:
    assert unescape(typed) == meant
    assert [starter.text for starter in list_starters(GenerateSettings(prompt=typed))] == [meant]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_starters_of_a_file_are_taken_as_they_stand(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = [prompt for prompt in PROMPTS if encoding != "cp1252" or "\u2028" not in prompt]
    content = "\r\n".join([*prompts[:2], "", *prompts[2:]]).encode(encoding)
    Path("p.txt").write_bytes(content)
    named = "cp1252" if encoding == "cp1252" else None
    starters = list_starters(GenerateSettings(prompts="p.txt", encoding=named))
    assert [starter.text for starter in starters] == prompts
    assert [starter.place for starter in starters[:3]] == ["p.txt:1", "p.txt:2", "p.txt:4"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [starter.text for starter in list_starters(GenerateSettings(prompts="-", encoding=named))] == prompts


def test_starters_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"p.txt: not UTF-8 text at byte 7, line 2 \(0xe9\): give its encoding"):
        list_starters(GenerateSettings(prompts=str(tmp_path / "p.txt")))


def run(capsys: pytest.CaptureFixture, *flags: str) -> tuple[list[dict], str]:
    """The samples of the tiny model, and stderr."""
    assert main(["generate", "--model_path=models/tiny", "--seed=1", "--top_k=0", "--json", *flags]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.split("\n")[:-1]], err


def test_a_full_context_ends_a_sample_and_is_said(converted: Path, capsys: pytest.CaptureFixture) -> None:
    samples, err = run(capsys, "--starter=The", "--output_length=200", "--n_samples=4", "--min_length=63")
    assert [(sample["tokens"], sample["ended"]) for sample in samples] == [(63, "context")] * 4
    assert "the context of 64 tokens has room for 63 after the prompt, not for 200 (--beyond_context goes on)\n" in err
    samples, err = run(capsys, "--starter=The", "--output_length=63", "--min_length=63")
    assert samples[0]["ended"] == "length" and "room" not in err


def test_beyond_the_context_a_sample_goes_on(converted: Path, capsys: pytest.CaptureFixture) -> None:
    beyond = ["--output_length=150", "--min_length=150", "--n_samples=2", "--beyond_context"]
    samples, err = run(capsys, "--starter=The", *beyond)
    assert [(sample["tokens"], sample["ended"]) for sample in samples] == [(150, "length")] * 2
    assert "the context of 64 tokens has room for 63 after the prompt, then goes on with the last 32\n" in err
    samples, err = run(capsys, f"--starter={'The' * 99}", *beyond)
    assert [(sample["prompt"], sample["tokens"]) for sample in samples] == [("The" * 99, 150)] * 2
    assert "the prompt has 99 tokens, the context 64: the model reads the last 32 of them\n" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--starter=The", "--min_length=64"], ["--starter has 1 of the 64 tokens", "leaves 63", "lower --min_length"]),
        (["--prompts=p.txt", "--min_length=63"], ["--prompts p.txt:3", "fewer than --min_length 63"]),
        (["--starter=The", "--encoding=nope"], ["--encoding nope", "no such encoding", "cp1252"]),
        (["--starter=The", "--output_file=models"], ["--output_file models", "is a folder"]),
    ],
)
def test_what_cannot_be_met_is_an_error(
    flags: list[str], words: list[str], workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("p.txt").write_text("The\n\nThe boats\n")
    before = list_names(workplace)
    assert main(["generate", "--model_path=models/tiny", "--output_length=64", *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err
    assert list_names(workplace) == before


def test_the_end_of_text_in_a_starter_is_the_token(
    converted: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []
    check_prompt = module.check_prompt
    monkeypatch.setattr(module, "check_prompt", lambda *given: prompts.append(given[1].ids) or check_prompt(*given))
    short = ["--starter=One<|endoftext|>Two<|endoftext|>", "--output_length=2"]
    samples, err = run(capsys, *short)
    assert samples[0]["prompt"] == short[0].removeprefix("--starter=")
    assert "2 <|endoftext|> in the prompts, read as the end-of-text token\n" in err
    _, err = run(capsys, *short, "--literal_specials")
    assert "2 <|endoftext|> in the prompts, read as letters\n" in err
    assert [prompt.count(511) for prompt in prompts] == [2, 0] and len(prompts[0]) < len(prompts[1])


def test_samples_come_in_order_and_as_soon_as_they_are_finished(converted: Path) -> None:
    settings = GenerateSettings(
        model="models/tiny", prompt="The", n_samples=10**9, batch_size=3, max_new_tokens=5, top_k=0, seed=1
    )
    first = [sample.text for sample in itertools.islice(generate_samples(settings, len), 7)]
    few = GenerateSettings(model="models/tiny", prompt="The", n_samples=7, max_new_tokens=5, top_k=0, seed=1)
    assert first == [sample.text for sample in generate_samples(few, len)]


def test_the_samples_before_an_interruption_are_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*_: object) -> Iterator[Sample]:
        yield Sample("One", " two", 1, "end")
        yield Sample("One", " three \ud800", 1, "end")
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "generate_samples", interrupted)
    assert main(["generate", "--output_file=out/s.txt"]) == 130
    dashes = "-" * 50
    assert Path("out/s.txt").read_text() == f"One two\n{dashes}\nOne three \\ud800\n{dashes}\n"
    assert "interrupted" in capsys.readouterr().err


def test_an_error_leaves_an_older_file_as_it_was(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    Path("s.txt").write_text("older")
    assert main(["generate", "--model_path=models/no", "--output_file=s.txt"]) == 2
    assert Path("s.txt").read_text() == "older"


def test_what_a_stream_has_already_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "generate_samples", lambda *_: iter([Sample("One", " two", 1, "end")]))
    with (tmp_path / "out").open("w+") as file:
        file.write("before\n")
        file.flush()
        assert main(["generate", f"--output_file=/dev/fd/{file.fileno()}", "--json"]) == 0
    assert (tmp_path / "out").read_text().startswith('before\n{"prompt": "One"')
