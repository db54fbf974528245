"""Continuing sequences of token ids, as arrays: what `GPT2.generate` does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.errors import InputError
from gpt_tf2.generation.samples import complete
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.model import GPT2

MOST_SLOTS = 64  # sequences at a time: more need more memory for their keys and values
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda value: value >= 1, "1 or more"),
    "temperature": (lambda value: value >= 0, "0 or more"),
    "top_k": (lambda value: value >= 0, "0 or more"),
    "top_p": (lambda value: 0 < value <= 1, "more than 0, at most 1"),
    "min_p": (lambda value: 0 <= value < 1, "0 or more, less than 1"),
    "repetition_penalty": (lambda value: value > 0, "more than 0"),
}


def continue_sequences(
    model: GPT2,
    ids: np.ndarray | Sequence[Sequence[int]],
    max_new_tokens: int,
    rules: Mapping[str, Any],
    end: int,
    seed: int | None = None,
) -> Any:
    """Sequences with their completions.

    Args:
        model: keeps its decoder, so that its graphs are compiled once.
        ids: [B, T], or a list of sequences of different lengths.
        rules: arguments of `make_sampler`.
        end: the id that ends a completion; it is not part of it.

    Returns:
        For an array, an array int32 [B, longest], filled up with `end`. For a list, a list of int32 arrays.

    Raises InputError if a setting is out of its range, or if a sequence is empty, leaves no room in the context, or
    holds an id outside the vocabulary.
    """
    for name, value in {"max_new_tokens": max_new_tokens, **rules}.items():
        accepts, allowed = RANGES[name]
        if not accepts(value):
            raise InputError(f"use {allowed}", name, value)
    prompts = [[int(id) for id in sequence] for sequence in ids]
    for number, prompt in enumerate(prompts):
        check_prompt(prompt, f"ids[{number}]", model.config)
    if model.decoder is None:
        model.decoder = GraphDecoder(model)
    slots, sampler = min(len(prompts), MOST_SLOTS), make_sampler(**rules)
    completions = complete(model.decoder, prompts, max_new_tokens, sampler, end, slots, seed) if prompts else []
    sequences = [np.array(prompt + new, "int32") for prompt, new in zip(prompts, completions, strict=True)]
    if isinstance(ids, (list, tuple)):
        return sequences
    filled = np.full((len(sequences), max(map(len, sequences), default=0)), end, "int32")
    for row, sequence in zip(filled, sequences, strict=True):
        row[: len(sequence)] = sequence
    return filled


def check_prompt(prompt: list[int], name: str, config: GPT2Config) -> None:
    """Raises InputError unless a prompt can be continued."""
    n_ctx, n_vocab = config.n_ctx, config.n_vocab
    if not 0 < len(prompt) < n_ctx:
        raise InputError(f"{name} has {len(prompt)} tokens, n_ctx is {n_ctx}: give 1 to {n_ctx - 1}")
    if not 0 <= min(prompt) <= max(prompt) < n_vocab:
        raise InputError(f"{name} holds an id outside the vocabulary: give ids from 0 to {n_vocab - 1}")
