"""A model with tokens of one's own: its vocabulary is extended, and its embedding gets a row for each."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config
from gpt_tf2.tokenizer import Tokenizer

EMBEDDINGS = ("wte", "lm_head")  # the tensors with a row per id


def add_tokens(model: OpenedModel, tokens: Sequence[str]) -> OpenedModel:
    """A model that also has these tokens, and says so in its notes; those that it has already are left.

    New tokens get the next ids. Their rows begin at the mean of the rows that have a token (Hewitt 2021), whether the
    checkpoint has such rows, as padded ones do, or not.

    Example:
        >>> add_tokens(open_model("models/124M"), ["<user>", "<bot>"]).config.n_vocab  # doctest: +SKIP
        50259
    """
    tokenizer = model.tokenizer.with_added(tokens)
    added = np.arange(model.tokenizer.n_vocab, tokenizer.n_vocab)
    config = dataclasses.replace(model.config, n_vocab=max(model.config.n_vocab, tokenizer.n_vocab))
    has_token = np.ones(model.config.n_vocab, bool)
    has_token[model.tokenizer.undrawn(model.config.n_vocab)] = False

    def open_weights(path: Path) -> Checkpoint:
        checkpoint = model.open_weights(path)
        checkpoint.check(model.config)
        return add_rows(checkpoint, config, has_token, added)

    notes = (*model.notes, describe_added(model.tokenizer, tokenizer, tokens))
    return dataclasses.replace(model, config=config, tokenizer=tokenizer, open_weights=open_weights, notes=notes)


def describe_added(before: Tokenizer, after: Tokenizer, tokens: Sequence[str]) -> str:
    """A line on the tokens asked for: those that were added, with their ids, and those that were there before."""
    old = [token for token in tokens if before.token_id(token) is not None]
    new = [f"{token} ({after.token_id(token)})" for token in tokens if token not in old]
    parts = {"added tokens": new, "in the vocabulary already": old}
    return "; ".join(f"{words}: {', '.join(dict.fromkeys(some))}" for words, some in parts.items() if some)


def add_rows(checkpoint: Checkpoint, config: GPT2Config, has_token: np.ndarray, added: np.ndarray) -> Checkpoint:
    """A checkpoint with the rows of the added ids at the mean embedding.

    A tensor's digest is that of the rows it is made from: a mean may differ in its last bit on another processor.

    Args:
        config: its hyper-parameters then.
        has_token: bool [n_vocab of the checkpoint], the rows to take the mean of.
        added: the ids.
    """

    def extend(name: str, values: np.ndarray) -> np.ndarray:
        if name not in EMBEDDINGS:
            return values
        rows = np.empty((config.n_vocab, values.shape[1]), "float32")
        rows[: len(values)] = values
        rows[added] = values.mean(axis=0, dtype="float64", where=has_token[:, None])
        return rows

    def read_hashed(name: str) -> tuple[np.ndarray, str]:
        values, digest = checkpoint.read_with_digest(name)
        return extend(name, values), digest

    return dataclasses.replace(
        checkpoint,
        shapes={
            name: (config.n_vocab, *shape[1:]) if name in EMBEDDINGS else shape
            for name, shape in checkpoint.shapes.items()
        },
        read=lambda name: extend(name, checkpoint.read(name)),
        config=config,
        read_hashed=read_hashed,
    )
