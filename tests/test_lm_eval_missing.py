"""lm-evaluation-harness where it is not installed."""

import runpy
import sys

import pytest


def test_without_the_harness_a_line_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "gpt_tf2.lm_eval", raising=False)
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("gpt_tf2.lm_eval", run_name="__main__")
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith("lm_eval: cannot be imported (") and printed.endswith("): run pip install '.[lm-eval]'\n")
