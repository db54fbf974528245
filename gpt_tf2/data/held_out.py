"""A sample of the tokens that a run held out, kept with the model: what int8 costs is measured on them."""

import itertools
from pathlib import Path

import numpy as np

from gpt_tf2.data.batches import Batches
from gpt_tf2.storage.files import atomic_write

NAME = "validation.npy"
TOKENS = 1024


def write_held_out(folder: Path, validation: Batches) -> None:
    """Keeps the first held-out tokens in a model's folder, as int32 [N]."""
    windows = itertools.islice(validation.windows(1, TOKENS), TOKENS)
    tokens = itertools.chain.from_iterable(batch.tokens[batch.segments > 0].tolist() for batch in windows)
    with atomic_write(folder / NAME) as temporary, temporary.open("wb") as file:
        np.save(file, np.fromiter(itertools.islice(tokens, TOKENS), "int32"))


def read_held_out(folder: Path) -> np.ndarray | None:
    """The tokens kept in a model's folder, [N]; None if there are none."""
    path = folder / NAME
    return np.load(path)[:TOKENS] if path.is_file() else None
