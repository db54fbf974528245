"""Two models on a text: the perplexity of each, and how far apart their predictions are."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.logprobs import log_softmax, predict_after

ROWS = 64  # whose probabilities are in memory at a time: 25 MB of float64 with OpenAI's vocabulary


class Comparison(NamedTuple):
    """How the predictions of a model B compare with those of a model A.

    tokens: how many were predicted.
    perplexities: per token, of A and of B.
    agreement: the fraction of tokens for which both like the same one best.
    divergence: the mean Kullback-Leibler divergence KL(A‖B), in nats per token.
    """

    tokens: int
    perplexities: tuple[float, float]
    agreement: float
    divergence: float


def compare_models(
    decoders: tuple[Decoder, Decoder],
    streams: Sequence[np.ndarray],
    end_of_text: int,
    show: Callable[[int, int | None], None],
) -> Comparison:
    """Runs two models with the same tokens side by side, a window at a time.

    The windows are those of `measure_perplexity`, with the shorter context of the two. Ids that only one of the models
    has are padding, and left out.

    Args:
        decoders: of A and B, of one kind: they give logits after the same number of tokens.
        streams: the text's token ids, int [N] for each part that is encoded apart; at least 1 in all.
        show: called with the number of tokens compared, and in all.

    Example:
        >>> compare_models((decoder, decoder), [np.array([464, 17855])], 50256, print).agreement  # doctest: +SKIP
        1.0
    """
    n_ctx, n_vocab = (min(getattr(one.config, name) for one in decoders) for name in ("n_ctx", "n_vocab"))
    total, done, equal, divergence, nats = sum(map(len, streams)), 0, 0, 0.0, np.zeros(2)
    for stream in streams:
        tokens = np.concatenate([[end_of_text], stream])
        parts = [predict_after(decoder, tokens, 1, n_ctx) for decoder in decoders]
        for (of_a, targets), (of_b, _) in zip(*parts, strict=True):
            for first in range(0, len(targets), ROWS):
                rows = slice(first, first + ROWS)
                a, b = log_softmax(of_a[rows, :n_vocab]), log_softmax(of_b[rows, :n_vocab])
                picks = np.arange(len(a)), targets[rows]
                nats -= a[picks].sum(), b[picks].sum()
                equal += int((a.argmax(axis=-1) == b.argmax(axis=-1)).sum())
                divergence += float((np.exp(a) * (a - b)).sum())
            done += len(targets)
            show(done, total)
    perplexities = math.exp(nats[0] / total), math.exp(nats[1] / total)
    return Comparison(total, perplexities, equal / total, divergence / total)
