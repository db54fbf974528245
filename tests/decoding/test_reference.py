"""The reference: it is the network that we train and run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.decoding.reference import Reference, hold_reference
from helpers.exporting import WIDE, write_wide_model
from helpers.workplace import OPENAI_TINY


def run_steps(reference: Reference, ids: np.ndarray, first: int) -> np.ndarray:
    """The logits after each of ids, the last of which are added one at a time to the cache of the first."""
    cache, parts = reference.begin(), np.split(ids, range(first, len(ids)))
    return np.concatenate([logits for part in parts for logits in reference.extend(cache, part)])


def test_it_gives_openais_logits() -> None:
    expected = np.load(OPENAI_TINY / "expected.npz")
    for first in (1, 20, 64):
        logits = run_steps(hold_reference(open_model(OPENAI_TINY)), expected["tokens"][0], first)
        np.testing.assert_allclose(logits, expected["logits"][0], atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_network(tied: bool, tmp_path: Path) -> None:
    """Of more tokens than are computed at a time."""
    model = open_model(write_wide_model(tmp_path, config=dataclasses.replace(WIDE, n_ctx=300, tied=tied)))
    ids = np.random.default_rng(0).integers(0, 512, 300)
    ours = np.asarray(model.load()(ids[None]))[0]
    for first in (280, 300):
        np.testing.assert_allclose(run_steps(hold_reference(model), ids, first), ours, atol=1e-5 * ours.std())
