"""Log-probabilities of the tokens of a text, by a decoder."""

from collections.abc import Iterator

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.perplexity import cut_windows


def score_tokens(decoder: Decoder, ids: np.ndarray, end_of_text: int) -> Iterator[np.ndarray]:
    """Yields the log-probabilities of consecutive tokens, float64 in nats, a part at a time.

    The first token follows the end of text. The windows are those of `measure_perplexity`.

    Args:
        ids: int [N], at least 1.

    Example:
        >>> np.concatenate(list(score_tokens(decoder, np.array([464, 17855]), 50256))).shape  # doctest: +SKIP
        (2,)
    """
    yield from score_after(decoder, np.concatenate([[end_of_text], ids]), 1)


def score_after(decoder: Decoder, tokens: np.ndarray, first: int) -> Iterator[np.ndarray]:
    """Yields the log-probabilities of the tokens from `first` on, 1 or more, each given those before it.

    tokens: int [N]. Sequences above the context are cut into windows, as `measure_perplexity` does.
    """
    for logits, targets in predict_after(decoder, tokens, first):
        yield log_softmax_at(logits, targets)


def predict_after(
    decoder: Decoder, tokens: np.ndarray, first: int, n_ctx: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the logits [n, n_vocab] from which `score_after` scores tokens, and the ids of these [n].

    n_ctx: the length of the windows; by default the decoder's context.
    """
    for window, predicted in cut_windows(tokens, first, n_ctx or decoder.config.n_ctx):
        ids, state = window[:-1].tolist(), decoder.begin()
        for start in range(0, len(ids), decoder.prefill_chunk):
            chunk = ids[start : start + decoder.prefill_chunk]
            end = start + len(chunk) + 1  # tokens up to here are predicted now
            wanted = min(len(chunk), max(0, end - predicted))
            logits = decoder.extend(state, [chunk], [wanted])  # [wanted, n_vocab]
            if wanted:
                yield logits, window[end - wanted : end]


def log_softmax_at(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The log-softmax of logits [N, n_vocab] at one id of each, float64 [N]."""
    largest = logits.max(axis=-1)
    chosen = logits[np.arange(len(targets)), targets]
    totals = np.array([np.exp(row - top).sum(dtype="float64") for row, top in zip(logits, largest, strict=True)])
    return (chosen - largest).astype("float64") - np.log(totals)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The log-softmax of logits [N, n_vocab] over the vocabulary, float64."""
    centered = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
    return centered - np.log(np.exp(centered).sum(axis=-1, keepdims=True))
