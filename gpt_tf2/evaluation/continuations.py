"""Log-probabilities of continuations, several at a time: what multiple-choice tasks are scored by."""

from collections.abc import Iterator, Sequence

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.logprobs import log_softmax_at

MOST_TOKENS = 1024  # of a batch: their logits take 200 MB with OpenAI's vocabulary

Score = tuple[float, bool]  # log-probability in nats, and whether each token is the one that the model likes best


def score_continuations(
    decoder: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> Iterator[tuple[int, Score]]:
    """Yields the index and the score of each continuation, given its context.

    Equal contexts are computed once. The longest come first.

    Args:
        pairs: token ids of a context and of its continuation, at least 1 each and together at most n_ctx + 1.
        batch_size: most contexts that run at a time.

    Example:
        >>> scores = dict(score_continuations(decoder, [([464], [17855]), ([464], [3420])], 8))  # doctest: +SKIP
        >>> scores[0]  # doctest: +SKIP
        (-9.87, False)
    """
    indices: dict[tuple[int, ...], list[int]] = {}
    for index, (context, _) in enumerate(pairs):
        indices.setdefault(tuple(context), []).append(index)
    lengths = {context: len(context) + max(len(pairs[i][1]) for i in group) for context, group in indices.items()}
    waiting = sorted(indices, key=lambda context: -lengths[context])
    while waiting:
        count = min(batch_size, max(1, MOST_TOKENS // lengths[waiting[0]]))
        contexts, waiting = waiting[:count], waiting[count:]
        yield from score_batch(decoder, pairs, {context: indices[context] for context in contexts})


def score_batch(
    decoder: Decoder,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    indices: dict[tuple[int, ...], list[int]],
) -> Iterator[tuple[int, Score]]:
    """As `score_continuations`, of contexts that run at the same time. indices: of each context's continuations."""
    contexts = list(indices)
    state = decoder.take(decoder.begin(), [(0, 0)] * len(contexts))
    first = decoder.extend(state, contexts, [1] * len(contexts))  # logits of each continuation's first token
    cached = state.lengths.copy()
    for turn in range(max(map(len, indices.values()))):  # one continuation of each context at a time
        running = {row: indices[context][turn] for row, context in enumerate(contexts) if turn < len(indices[context])}
        new = [pairs[running[row]][1][:-1] if row in running else () for row in range(len(contexts))]
        logits = decoder.extend(state, new) if any(map(len, new)) else first[:0]
        state.lengths = cached.copy()  # forgets the continuations
        parts = np.split(logits, np.cumsum([len(ids) for ids in new])[:-1])
        for row, index in running.items():
            predicted, targets = np.concatenate([first[row : row + 1], parts[row]]), np.array(pairs[index][1])
            is_best = bool((predicted.argmax(axis=-1) == targets).all())
            yield index, (float(log_softmax_at(predicted, targets).sum()), is_best)
