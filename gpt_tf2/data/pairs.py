"""Training batches of pairs: a prompt with two completions, the first of which is preferred."""

from collections.abc import Iterator

import numpy as np

from gpt_tf2.data.batches import PairBatch
from gpt_tf2.data.packing import Packed, PackedExamples, Segment
from gpt_tf2.data.prepared import Tokens

UNKNOWN = np.zeros(0, "float32")  # the reference, until it is computed


class PackedPairs(PackedExamples):
    """Packed sequences in twos: several pairs share them, the chosen completions in one, the rejected in the other.

    Args:
        tokens: the prepared examples, each of a passage, a prompt, and the chosen and the rejected completion.
        examples: int [N], which of them to use; none with a completion that does not fit.
        length: the maximum length of a sequence, in tokens.
        end_of_text: the id that ends every completion.
        beta: of the loss.
        multiple: see `PackedExamples`.
        reference: of `measure_reference`, float32 [spans]; empty until it is known: then it counts as 0.
    """

    def __init__(
        self,
        tokens: Tokens,
        examples: np.ndarray,
        length: int,
        end_of_text: int,
        beta: float,
        multiple: int = 1,
        reference: np.ndarray = UNKNOWN,
    ):
        super().__init__(tokens, examples, length, True, end_of_text, multiple, shortens=False)
        self.beta, self.reference = beta, reference

    def with_reference(self, reference: np.ndarray) -> "PackedPairs":
        """The same pairs with a reference."""
        options = self.tokens, self.examples, self.length, self.end_of_text, self.beta, self.multiple
        return PackedPairs(*options, reference)

    def list_all(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, PairBatch]]:
        """Yield every pair once, in batches, the longest first.

        Yields:
            The spans of the batch's completions, int [S]; for each the index of its first pick, int [S]; the batch.
        """
        draw = np.random.default_rng(0)
        sequences = self._pack([self._draw_segment(example, draw) for example in self.examples])
        sequences.sort(key=self._width, reverse=True)
        for start in range(0, len(sequences), batch_size):
            part = sequences[start : start + batch_size]
            yield *self._locate(pair_up(part)), self._render(part, len(part))

    def _draw_segment(self, example: int, draw: np.random.Generator) -> Segment:
        """The spans of the chosen segment; the rejected one has the span after its last instead of that."""
        first = int(self.tokens.first_spans[example])
        return [first, first + 1, first + 2]

    def _length(self, segment: Segment) -> int:
        """The number of tokens that the pair of either segment takes in each of its two sequences."""
        first = segment[0]
        chosen, rejected = ([first, first + 1, completion] for completion in (first + 2, first + 3))
        return max(super()._length(chosen), super()._length(rejected))

    def _render(self, sequences: list[Packed], batch_size: int) -> PairBatch:
        paired = pair_up(sequences)
        batch = super()._render(paired, 2 * batch_size)
        reference = np.zeros(len(batch.picks), "float32")
        if len(self.reference):
            spans, firsts = self._locate(paired)
            reference[firsts] = self.reference[spans]
        return PairBatch(**vars(batch) | {"weights": batch.weights * np.float32(self.beta), "reference": reference})

    def _locate(self, sequences: list[Packed]) -> tuple[np.ndarray, np.ndarray]:
        """The completions' spans in the order of a batch, and the index of each one's first pick, int [S] both."""
        spans = np.array([segment[-1] for sequence in sequences for segment in sequence])
        learned = self.tokens.ends[spans] - self.tokens.ends[spans - 1] + 1  # the end of text is learned too
        return spans, np.cumsum(learned) - learned


def reject(segment: Segment) -> Segment:
    """The rejected segment that belongs to a chosen one."""
    return [*segment[:-1], segment[-1] + 1]


def pair_up(sequences: list[Packed]) -> list[Packed]:
    """Each sequence of chosen segments, followed by that of the rejected ones."""
    return [part for sequence in sequences for part in (sequence, [reject(segment) for segment in sequence])]


def measure_pairs(tokens: Tokens) -> np.ndarray:
    """How many tokens each pair takes in a sequence, int [examples]: those of its longer completion count."""
    ends = np.concatenate([[0], tokens.ends])
    first = tokens.first_spans[:-1]
    shared = ends[first + 2] - ends[first]
    chosen, rejected = (ends[first + i + 1] - ends[first + i] for i in (2, 3))
    return shared + np.maximum(chosen, rejected) + 1
