"""Continuing sequences of token ids, as arrays: what `GPT2.generate` does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.errors import InputError, check_number
from gpt_tf2.generation.samples import complete
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.model import GPT2

MOST_SLOTS = 64  # sequences at a time: more need more memory for their keys and values
RANGES: dict[str, tuple[type, Callable[[float], bool], str]] = {
    "max_new_tokens": (int, lambda value: 1 <= value < 2**31, "1 or more, less than 2^31"),
    "temperature": (float, lambda value: value >= 0, "0 or more"),
    "top_k": (int, lambda value: 0 <= value < 2**63, "0 or more, less than 2^63"),
    "top_p": (float, lambda value: 0 < value <= 1, "more than 0, at most 1"),
    "min_p": (float, lambda value: 0 <= value < 1, "0 or more, less than 1"),
    "repetition_penalty": (float, lambda value: 0.001 <= value <= 1000, "0.001 to 1000"),
    "seed": (int, lambda value: 0 <= value < 2**63, "0 or more, less than 2^63"),
    "end": (int, lambda value: -(2**31) <= value < 2**31, "a token id"),
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

    Raises InputError if a setting is out of its range, if `ids` are no sequences of ids, or if a sequence is empty,
    leaves no room in the context, or holds an id outside the vocabulary.
    """
    settings = {"max_new_tokens": max_new_tokens, **rules, "end": end} | ({} if seed is None else {"seed": seed})
    for name, value in settings.items():
        check_number(name, value, *RANGES[name])
    prompts = list_prompts(ids)
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


def list_prompts(ids: Any) -> list[list[int]]:
    """Sequences of ids as lists. Raises InputError if they are something else."""
    rows = ids if isinstance(ids, list | tuple) else np.atleast_1d(np.asarray(ids))
    try:
        arrays = [np.asarray(row) for row in rows]
    except ValueError:  # a row of lists of different lengths
        arrays = [np.empty(())]
    if not all(array.ndim == 1 and (not array.size or np.issubdtype(array.dtype, np.integer)) for array in arrays):
        raise InputError("ids are not sequences of token ids: give an int array [B, T], or a list of lists of ids")
    return [array.tolist() for array in arrays]


def check_prompt(prompt: list[int], name: str, config: GPT2Config) -> None:
    """Raises InputError unless a prompt can be continued."""
    n_ctx, n_vocab = config.n_ctx, config.n_vocab
    if not 0 < len(prompt) < n_ctx:
        raise InputError(f"{name} has {len(prompt)} tokens, n_ctx is {n_ctx}: give 1 to {n_ctx - 1}")
    if not 0 <= min(prompt) <= max(prompt) < n_vocab:
        raise InputError(f"{name} holds an id outside the vocabulary: give ids from 0 to {n_vocab - 1}")
