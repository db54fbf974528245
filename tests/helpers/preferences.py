"""Pairs of completions as tokens."""

import itertools

import numpy as np

from gpt_tf2.data.encoding import COMPLETION, PASSAGE, PROMPT
from gpt_tf2.data.prepared import Tokens

Pair = tuple[list[int], list[int], list[int]]  # a prompt, the chosen and the rejected completion


def draw_pairs(count: int, n_vocab: int, longest: int = 7, seed: int = 0) -> list[Pair]:
    """Random pairs, whose prompts and completions have 1 to `longest` tokens. The last id is none of them."""
    draw = np.random.default_rng(seed)
    return [
        tuple(draw.integers(0, n_vocab - 1, draw.integers(1, longest + 1)).tolist() for _ in range(3))
        for _ in range(count)
    ]


def to_tokens(pairs: list[Pair]) -> Tokens:
    """Pairs as they are prepared from lines of text."""
    spans = [span for prompt, chosen, rejected in pairs for span in ([], prompt, chosen, rejected)]
    lengths = [len(span) for span in spans]
    shortest = [len(prompt) + min(len(chosen), len(rejected)) + 1 for prompt, chosen, rejected in pairs]
    return Tokens(
        tokens=np.array(list(itertools.chain(*spans)), "uint16"),
        ends=np.cumsum(lengths),
        kinds=np.array([PASSAGE, PROMPT, COMPLETION, COMPLETION] * len(pairs), "uint8"),
        first_spans=4 * np.arange(len(pairs) + 1),
        shortest=np.array(shortest, "int32"),
        key="",
        content="",
        skipped=[],
    )
