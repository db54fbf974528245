"""Perplexity against its definition."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import Tokenizer, load_model
from gpt_tf2.backend.workers import Workers
from gpt_tf2.cli import main
from gpt_tf2.data.batches import Batch
from gpt_tf2.evaluation.perplexity import measure_perplexity
from gpt_tf2.evaluation.shared_journal import SharedJournal
from helpers.workplace import OPENAI_TINY


def test_perplexity_is_that_of_the_network_with_a_sliding_window(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    text = Path("story.txt").read_text()[:700] + " é"
    Path("t.txt").write_text(text)
    assert main(["evaluate", "--dataset_path=t.txt", "--model_path=models/tiny", "--batch_size=3"]) == 0
    assert "bits per byte" in capsys.readouterr().out
    figures = json.loads(Path("output/tiny_text_train.scores.json").read_text())["text"]["t.txt"]
    model, tokenizer = load_model(OPENAI_TINY), Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    ids, n_ctx = [tokenizer.end_of_text, *tokenizer.encode(text)], 64
    assert len(ids) > 3 * n_ctx
    nats = 0.0
    starts = [
        max(0, (position - 1 - n_ctx // 2) // (n_ctx // 2) * (n_ctx // 2)) if position > n_ctx else 0
        for position in range(1, len(ids))
    ]
    windows = [ids[start:position] for position, start in enumerate(starts, start=1)]
    padded = np.array([window + [0] * (n_ctx - len(window)) for window in windows])  # no token sees the padding
    for position, (window, rows) in enumerate(zip(windows, np.asarray(model(padded)), strict=True), start=1):
        logits = rows[len(window) - 1].astype("float64")
        nats += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[position]]
    assert figures["tokens"] == len(ids) - 1 and figures["bytes"] == len(text.encode())
    assert figures["perplexity per token"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-4)
    assert figures["bits per byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_every_token_is_predicted_once_and_a_resumed_measurement_computes_only_the_rest(tmp_path: Path) -> None:
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    streams = [np.arange(n) % 500 for n in (1, 8, 9, 50)]
    predicted: list[int] = []
    shown: list[tuple[int, int | None]] = []

    def uniform_loss(batch: Batch) -> float:
        assert (batch.weights == 1).all() and batch.tokens.shape[1] == 8
        predicted.extend(batch.targets.tolist())
        return len(batch.targets) * math.log(512)

    def measure(loss: Callable[[Batch], float]) -> dict[str, float]:
        workers = Workers()
        journal = SharedJournal(tmp_path / "perplexity.partial", "the same", workers)
        show = lambda *counts: shown.append(counts)  # noqa: E731
        return measure_perplexity(streams, tokenizer, 8, 3, [loss], workers, journal, show)

    figures = measure(uniform_loss)
    assert predicted == [id for stream in streams for id in stream.tolist()]
    assert figures["tokens"] == 68 and figures["perplexity per token"] == pytest.approx(512)
    assert figures["bits per byte"] == pytest.approx(68 * 9 / figures["bytes"])
    assert shown[-1] == (len(shown), len(shown))

    lines = (tmp_path / "perplexity.partial").read_bytes().splitlines(keepends=True)
    (tmp_path / "perplexity.partial").write_bytes(b"".join(lines[:-2]))  # the last two batches are missing
    resumed: list[Batch] = []
    assert measure(lambda batch: resumed.append(batch) or uniform_loss(batch)) == figures
    assert len(resumed) == 2
