"""Scores of continuations against their definition."""

import numpy as np
import pytest

from gpt_tf2 import load_model
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.evaluation import continuations
from gpt_tf2.evaluation.continuations import score_continuations
from helpers.markers import slow_on_jax
from helpers.workplace import OPENAI_TINY

CONTEXTS, ENDINGS = (1, 5, 30, 60), (1, 2, 5)  # lengths; n_ctx is 64, and the last token is not read


@slow_on_jax
def test_scores_are_those_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model, draw = load_model(OPENAI_TINY), np.random.default_rng(0)
    drawn = [draw.integers(0, 500, n).tolist() for n in CONTEXTS]
    pairs = [(context, draw.integers(0, 500, n).tolist()) for n in ENDINGS for context in drawn]
    greedy = drawn[1]
    for _ in range(2):
        greedy = [*greedy, int(np.asarray(model(np.array([greedy])))[0, -1].argmax())]
    pairs.append((drawn[1], greedy[-2:]))
    padded = np.array([(context + ending)[:-1] + [0] * (64 + 1 - len(context + ending)) for context, ending in pairs])
    expected = []
    for (context, ending), logits in zip(pairs, np.asarray(model(padded)), strict=True):
        rows = logits[len(context) - 1 : len(context + ending) - 1].astype("float64")
        logprobs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        expected.append((logprobs[np.arange(len(ending)), ending].sum(), rows.argmax(-1).tolist() == ending))
    assert expected[-1][1] and not any(best for _, best in expected[:-1])

    decoder = GraphDecoder(model)
    for batch_size, most_tokens in ((1, 1024), (3, 70)):
        monkeypatch.setattr(continuations, "MOST_TOKENS", most_tokens)
        scores = dict(score_continuations(decoder, pairs, batch_size))
        assert len(scores) == len(pairs)
        for index, (logprob, best) in enumerate(expected):
            assert scores[index] == (pytest.approx(logprob, abs=1e-3), best)
