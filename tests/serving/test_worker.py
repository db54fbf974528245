"""The thread that runs a model, by itself: turns, cancelling, and failures."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.serving.models import Models
from gpt_tf2.serving.worker import Job, Worker
from helpers.serving import Gate, open_served, wait_until

NOTHING: Callable[[Decoder], Iterator[None]] = lambda decoder: iter(())  # noqa: E731


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def worker(tiny: Path, lm: LanguageModel, gate: Gate) -> Iterator[Worker]:
    """A worker with two slots and a gate before its steps."""
    models: Models = gate.before(open_served(tiny, batch_size=2))
    (served,) = models.served.values()
    assert served.worker
    yield served.worker
    gate.open()
    served.worker.close()


class Log:
    """What happened, in order, and a job that is written in it under its name."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.errors: list[Exception] = []
        self.tokens: dict[str, int] = {}

    def job(self, name: str, requests: int, prompt: int = 1, prepare: Callable = NOTHING) -> Job:
        """A job of requests for 5 tokens, whose prompts have a number of tokens."""

        def finish() -> None:
            self.finished.append(name)

        def count(id: int) -> None:
            self.tokens[name] = self.tokens.get(name, 0) + 1

        ids = [len(name) + 7] * prompt
        sampler = make_sampler(0)
        made = [
            Request([*ids, i + 1], 5, sampler, np.random.default_rng(0), count, tag=finish) for i in range(requests)
        ]
        return Job(made, prepare, self.errors.append)

    def wait(self, count: int) -> None:
        """Waits until so many requests are finished."""
        wait_until(lambda: len(self.finished) >= count)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_job_of_many_requests_does_not_keep_the_others_out(worker: Worker, gate: Gate, slots: int) -> None:
    log = Log()
    if slots == 1:
        worker = Worker(worker._decoder, end=-1, slots=1)
    gate.shut()
    worker.submit(log.job("many", 20))
    worker.submit(log.job("one", 1))
    worker.submit(log.job("two", 2))
    gate.open()
    log.wait(23)
    assert log.finished.index("one") < 5 and log.finished.index("two") < 6
    assert log.errors == []
    wait_until(lambda: worker.running == worker.waiting == 0)


def test_long_preparations_take_turns_with_each_other_and_with_steps(worker: Worker, gate: Gate) -> None:
    log, parts = Log(), list[str]()

    def prepare(name: str) -> Callable[[Decoder], Iterator[None]]:
        def run(decoder: Decoder) -> Iterator[None]:
            for _ in range(6):
                parts.append(name)
                yield

        return run

    gate.shut()
    worker.submit(log.job("first", 1))
    for name in ("a", "b"):
        worker.submit(log.job(name, 1, prepare=prepare(name)))
    gate.open()
    log.wait(3)
    assert log.finished == ["first", "a", "b"]
    assert parts == ["a", "b"] * 6


@pytest.mark.parametrize("part", ["waiting", "preparing", "in its prompt", "generating"])
def test_a_cancelled_job_is_gone_before_the_next_step(
    worker: Worker, gate: Gate, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker._decoder, "prefill_chunk", 8)
    log = Log()

    def prepare(decoder: Decoder) -> Iterator[None]:
        while True:
            yield decoder.extend(decoder.begin(), [[1]], [0]) is None

    gate.shut()
    others = log.job("others", 2)
    job = log.job("job", 1, 40 if part == "in its prompt" else 1, prepare if part == "preparing" else NOTHING)
    if part == "waiting":
        worker.submit(others)
    worker.submit(job)
    began = gate.steps
    gate.shut_after(2)
    wait_until(lambda: gate.steps >= began + 3)
    worker.cancel(job)
    before = log.tokens.get("job", 0)
    gate.open()
    worker.submit(log.job("later", 1))
    log.wait(3 if part == "waiting" else 1)
    assert "job" not in log.finished and log.tokens.get("job", 0) <= before + 1
    assert log.errors == []


def test_a_failing_step_ends_its_jobs_and_no_others(worker: Worker, gate: Gate) -> None:
    log = Log()
    gate.shut()
    began = gate.steps
    worker.submit(log.job("a", 2))
    wait_until(lambda: gate.steps > began)
    worker.submit(log.job("b", 1))
    gate.fail_once()
    gate.open()
    log.wait(1)
    assert log.finished == ["b"] and [str(error) for error in log.errors] == ["the gate fails"]

    def fail(decoder: Decoder) -> Iterator[None]:
        raise ValueError("cannot prepare")
        yield

    worker.submit(log.job("c", 1, prepare=fail))
    worker.submit(log.job("d", 1))
    log.wait(2)
    assert log.finished == ["b", "d"] and str(log.errors[-1]) == "cannot prepare"


def test_a_lack_of_memory_for_the_scheduler_is_an_error_of_the_job(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, begin = Log(), worker._decoder.begin

    def fail() -> object:
        raise MemoryError("no memory for the cache")

    monkeypatch.setattr(worker._decoder, "begin", fail)
    worker.submit(log.job("a", 2))
    wait_until(lambda: len(log.errors) == 1)
    monkeypatch.setattr(worker._decoder, "begin", begin)
    worker.submit(log.job("b", 1))
    log.wait(1)
    assert log.finished == ["b"] and str(log.errors[0]) == "no memory for the cache"
