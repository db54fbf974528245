"""Log-probabilities of the tokens of a text, by a decoder."""

from collections.abc import Iterator

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.perplexity import make_windows


def score_tokens(decoder: Decoder, ids: np.ndarray, end_of_text: int) -> Iterator[np.ndarray]:
    """Yields the log-probabilities of consecutive tokens, float64 in nats, a part at a time.

    The arguments are those of `predict_tokens`.

    Example:
        >>> np.concatenate(list(score_tokens(decoder, np.array([464, 17855]), 50256))).shape  # doctest: +SKIP
        (2,)
    """
    for logits, targets in predict_tokens(decoder, ids, end_of_text):
        yield log_softmax_at(logits, targets)


def predict_tokens(decoder: Decoder, ids: np.ndarray, end_of_text: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the logits [n, n_vocab] of consecutive tokens, and their ids [n], a part at a time.

    The first token follows the end of text. The windows are those of `measure_perplexity`.

    Args:
        ids: int [N], at least 1.
    """
    for batch in make_windows([ids], end_of_text, decoder.config.n_ctx, batch_size=1):
        first, size = int(batch.picks[0]), int(batch.picks[-1]) + 1
        window, state = batch.tokens[0, :size].tolist(), decoder.begin()
        for start in range(0, size, decoder.prefill_chunk):
            chunk = window[start : start + decoder.prefill_chunk]
            wanted = min(len(chunk), max(0, start + len(chunk) - first))
            logits = decoder.extend(state, [chunk], [wanted])  # [wanted, n_vocab]
            predicted = start + len(chunk) - first  # targets up to here, of this window
            if wanted:
                yield logits, batch.targets[predicted - wanted : predicted]


def log_softmax_at(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The log-softmax of logits [N, n_vocab] at one id of each, float64 [N]."""
    largest = logits.max(axis=-1)
    chosen = logits[np.arange(len(targets)), targets]
    totals = np.array([np.exp(row - top).sum(dtype="float64") for row, top in zip(logits, largest, strict=True)])
    return (chosen - largest).astype("float64") - np.log(totals)
