"""`--log_prompts`: what is asked and answered, in a file of its owner's."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.serving.openai_responses import CompletionAnswer
from gpt_tf2.serving.prompt_log import PromptLog
from gpt_tf2.tasks.chat_template import FILE, ChatTemplate, format_template
from helpers.serving import HTTP, Gate, open_served, post_raw, serving, wait_until


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_the_prompt_and_the_answer(tiny: Path, lm: LanguageModel, tmp_path: Path) -> None:
    path, gate = tmp_path / "logs" / "prompts.jsonl", Gate()
    model = Path(shutil.copytree(tiny, tmp_path / "chatty"))
    (model / FILE).write_text(format_template(ChatTemplate(("T: ", "\n"), ("\nQ: ", ""), ("\nA: ", "!"))))
    log, models = PromptLog(path), gate.before(open_served(model))
    asked: dict[str, Any] = {"max_tokens": 5, "seed": 1, "ignore_eos": True}
    messages = [{"role": "user", "content": "Who? \ud800"}]
    with serving(models, log=log) as url:
        whole = HTTP.post(f"{url}/v1/completions", json=asked | {"prompt": ["The tide", "A é"]}).json()
        chat = json.dumps(asked | {"messages": messages, "stream": True})  # httpx refuses a lone surrogate
        HTTP.post(f"{url}/v1/chat/completions", content=chat, headers={"Content-Type": "application/json"})
        HTTP.post(f"{url}/v1/completions", json={"prompt": "my secret", "max_tokens": -1})
        gate.shut()
        began = gate.steps
        with post_raw(url, "/v1/completions", asked | {"prompt": "I leave"}):
            wait_until(lambda: gate.steps > began)
        wait_until(lambda: len(read(path)) == 3)
        gate.open()
    log.close()
    completed, chatted, left = read(path)
    assert completed["prompts"] == ["The tide", "A é"] and completed["model"] == "chatty" and completed["time"]
    assert completed["choices"] == [{"text": c["text"], "finish_reason": "length"} for c in whole["choices"]]
    assert chatted["messages"] == messages and [c["finish_reason"] for c in chatted["choices"]] == ["length"]
    assert left["prompts"] == ["I leave"] and left["choices"] == [{"text": "", "finish_reason": None}]


def test_only_the_owner_reads_it_and_earlier_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"earlier": 1}\n')
    path.chmod(0o644)
    log = PromptLog(path)
    assert path.stat().st_mode & 0o777 == 0o600
    answer = CompletionAnswer("tiny", 1, 1, False)
    with pytest.raises(ZeroDivisionError), log.record({"prompts": ["a"]}, answer):
        raise ZeroDivisionError
    assert [line.get("prompts") for line in read(path)] == [None, ["a"]]
    log.close()


def test_a_line_that_a_full_disk_cut_off_is_the_only_one_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, write, taken = tmp_path / "prompts.jsonl", os.write, iter([9, 0, 1, 0, 9, 10**6])

    def write_part(file: int, content: bytes) -> int:
        length = next(taken)
        if not length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:length])

    log, answer = PromptLog(path), CompletionAnswer("tiny", 1, 1, False)
    with monkeypatch.context() as filling:
        filling.setattr("gpt_tf2.serving.prompt_log.os.write", write_part)
        for prompt in ("lost", "lost too", "kept"):
            with log.record({"prompts": [prompt]}, answer):
                pass
    log.close()
    cut, kept = path.read_text().splitlines()
    assert len(cut) == 9 and json.loads(kept)["prompts"] == ["kept"]
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_full_disk_is_said_once_and_the_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "prompts.jsonl"
    log, answer = PromptLog(path), CompletionAnswer("tiny", 1, 1, False)
    with monkeypatch.context() as full:
        full.setattr("gpt_tf2.serving.prompt_log.os.write", fail)
        for _ in range(2):
            with log.record({"prompts": ["lost"]}, answer):
                pass
    with log.record({"prompts": ["kept"]}, answer):
        pass
    log.close()
    assert [line["prompts"] for line in read(path)] == [["kept"]]
    assert capsys.readouterr().err == f"{path}: cannot be written (No space left on device): requests are not logged\n"
