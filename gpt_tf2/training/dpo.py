"""Direct preference optimization (DPO, Rafailov et al. 2023): the loss of pairs of completions.

A completion's reward is β times what its log-probability gained over the reference model's. The loss of a pair is
−log σ(margin), where the margin is the reward of the chosen completion minus that of the rejected one (equation 7). Its
gradient reaches the network through the log-probabilities alone, so it is that of the ordinary next-token loss with a
weight for each token.

Letters in shapes: B sequences, T tokens, K predicted tokens.
"""

from collections.abc import Mapping

from keras import ops

from gpt_tf2.model import Tensor

FIGURES = ("loss", "reward_margin", "accuracy")  # of pairs
TIE = 1e-4  # a margin below counts half in the accuracy: before the first step rounding makes margins of ±1e-7


def weigh_pairs(log_probabilities: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the loss of pairs, and the weights of the next-token loss that has the same gradient.

    Args:
        log_probabilities: of the targets, float32 [K], in nats.
        batch: the arrays of a `PairBatch`, by name.

    Returns:
        The sums of `FIGURES` over the pairs, float32 [3]: losses, margins, and how many margins are positive, where one
        nearer to 0 than `TIE` counts half. And the weights, float32 [K]: of a chosen token β·σ(−margin), of a rejected
        one −β·σ(−margin).
    """
    segments, picks, weights = batch["segments"], batch["picks"], batch["weights"]
    width = segments.shape[1]
    sequence = picks // width
    most = width + 1  # segments of a sequence, padding included: more than there can be
    pair = sequence // 2 * most + ops.take(ops.reshape(segments, (-1,)), picks)  # [K]
    sign = ops.cast(1 - 2 * (sequence % 2), "float32")
    count = segments.shape[0] // 2 * most
    margins = ops.segment_sum(sign * weights * (log_probabilities - batch["reference"]), pair, count)
    is_pair = ops.segment_sum(weights, pair, count) > 0
    wins = (1 + ops.sign(margins) * ops.cast(ops.abs(margins) >= TIE, "float32")) / 2
    figures = [ops.softplus(-margins), margins, wins]
    sums = ops.stack([ops.sum(ops.where(is_pair, figure, 0.0)) for figure in figures])
    return sums, sign * weights * ops.take(ops.sigmoid(-margins), pair)
