"""The rows that new tokens get: the mean of the rows with a token. Runs on either backend."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import GPT2Config
from gpt_tf2.checkpoints.added_tokens import add_rows
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import tensor_shapes

CONFIG = GPT2Config(n_vocab=20, n_ctx=4, n_embd=6, n_head=2, n_layer=1, tied=False)
TENSORS = {
    name: np.random.default_rng(len(name)).normal(size=shape).astype("float32")
    for name, shape in tensor_shapes(CONFIG).items()
}
CHECKPOINT = Checkpoint(Path("made-up"), tensor_shapes(CONFIG), TENSORS.__getitem__, CONFIG)


@pytest.mark.parametrize(
    ("without_token", "added", "n_vocab"),
    [
        ([], [20, 21], 22),
        ([17, 18, 19], [17, 18], 20),  # padded: the rows are there
        ([3, 18, 19], [18, 19, 20], 21),  # and too few of them, beside an id that the vocabulary skips
        ([3, 19], [], 20),
    ],
)
def test_new_rows_are_the_mean_of_those_with_a_token_and_all_else_stays(
    without_token: list[int], added: list[int], n_vocab: int
) -> None:
    has_token = ~np.isin(np.arange(20), without_token)
    wider = dataclasses.replace(CONFIG, n_vocab=n_vocab)
    checkpoint = add_rows(CHECKPOINT, wider, has_token, np.array(added, "int32"))
    checkpoint.check(wider)
    for name, before in TENSORS.items():
        after, digest = checkpoint.read_with_digest(name)
        assert after.dtype == "float32" and after.shape == checkpoint.shapes[name]
        assert np.array_equal(after, checkpoint.read(name))
        assert digest == CHECKPOINT.read_with_digest(name)[1]
        if name not in ("wte", "lm_head"):
            assert np.array_equal(after, before)
            continue
        kept = np.setdiff1d(np.arange(20), added)
        assert np.array_equal(after[kept], before[kept])
        mean = np.mean([row for row, has in zip(before.astype("float64"), has_token, strict=True) if has], axis=0)
        assert np.allclose(after[added], mean, rtol=1e-6, atol=1e-7)
