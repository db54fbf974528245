"""What a person sees of a run."""

import pytest

from gpt_tf2.commands.progress import TrainingDisplay
from gpt_tf2.training.monitor import Monitor


def test_the_last_line_has_the_validation_after_the_last_step(capsys: pytest.CaptureFixture) -> None:
    with TrainingDisplay(2, 0) as display, Monitor(2, display) as monitor:
        monitor.validated(0, 5.0)
        monitor.step(1, 4.0, 0.1, 8)
        monitor.step(2, 3.0, 0.1, 8)
        monitor.validated(2, 2.5)
        monitor.end()
    first, *_, last = capsys.readouterr().out.splitlines()[1:]
    assert first == "step 1/2 · loss 4.000 · validation 5.000"
    assert last.startswith("step 2/2 · loss 3.000 · validation 2.500 · ") and "tokens/s" in last


def test_a_step_that_was_shown_is_not_shown_again(capsys: pytest.CaptureFixture) -> None:
    with TrainingDisplay(9, 0) as display, Monitor(9, display) as monitor:
        monitor.step(1, 4.0, 0.1, 8)
        monitor.end()
    assert capsys.readouterr().out == "step 1/9 · loss 4.000\n"
