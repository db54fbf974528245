"""Log-probabilities of tokens beside their most likely alternatives, and a sampler that records them."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from gpt_tf2.generation.sampling import Sampler


@dataclasses.dataclass(frozen=True)
class TokenLogprobs:
    """One token of a text, with its log-probabilities in nats.

    id, logprob: the token.
    top: ids and log-probabilities of the most likely tokens, most likely first.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def rank_token(logits: np.ndarray, id: int, top: int) -> TokenLogprobs:
    """A token's log-probability by logits [n_vocab], and the `top` most likely tokens.

    Example:
        >>> rank_token(np.array([0.0, 1.0, 0.0], "float32"), 0, top=1).top[0][0]
        1
    """
    largest = logits.max()
    total = float(largest) + math.log(np.exp(logits - largest).sum(dtype="float64"))
    top = min(top, len(logits))
    likely = np.argpartition(-logits, top - 1)[:top] if top else np.zeros(0, "int64")
    ranked = likely[np.argsort(-logits[likely], kind="stable")]
    return TokenLogprobs(id, float(logits[id]) - total, tuple((int(i), float(logits[i]) - total) for i in ranked))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingSampler(Sampler):
    """A sampler that hands out the log-probabilities of each token that it chooses, before its rules.

    top: how many of the most likely tokens to report. record: is called with each token's, the end of the text too.
    """

    top: int
    record: Callable[[TokenLogprobs], None]

    def choose(self, logits: np.ndarray, ids: Sequence[int], generator: np.random.Generator) -> int:
        id = super().choose(logits, ids, generator)
        self.record(rank_token(logits, id, self.top))
        return id
