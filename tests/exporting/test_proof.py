"""The proof: it holds for the same model, and for no other."""

from collections.abc import Iterable

import numpy as np
import pytest

from gpt_tf2 import GPT2
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.export_settings import GELU_TABLE, QUANTIZED, ROUNDING
from gpt_tf2.exporting.proof import Expected, LogitsOf, prove
from helpers.exporting import WIDE, expect, write_wide_model

TEXT = np.random.default_rng(1).integers(0, WIDE.n_vocab, 200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_model(write_wide_model(tmp_path_factory.mktemp("wide"), std=0.3))


@pytest.fixture(scope="module")
def network(model: OpenedModel) -> GPT2:
    return model.load()


def run_whole(network: GPT2) -> LogitsOf:
    return lambda ids, steps=0: [np.asarray(network(ids[None]))[0]]


@pytest.fixture(scope="module")
def expected(model: OpenedModel) -> Expected:
    return expect(model, TEXT)


def test_the_same_model_is_proved(network: GPT2, expected: Expected) -> None:
    assert len(expected.text) == 128 and len(expected.greedy) == 64
    proof = prove(expected, run_whole(network))
    assert proof.equal == 64 and proof.holds(ROUNDING)
    assert proof.perplexities[0] == pytest.approx(proof.perplexities[1], rel=1e-5)
    logits = np.asarray(network(TEXT[None, :128]))[0].astype("float64")
    nats = np.log(np.exp(logits[:-1]).sum(-1)) - logits[np.arange(127), TEXT[1:128]]
    assert proof.perplexities[0] == pytest.approx(np.exp(nats.mean()), rel=1e-5)


def test_another_model_is_not(network: GPT2, expected: Expected) -> None:
    """One block's query, key and value matrix is the wrong way round."""

    def read(name: str) -> np.ndarray:
        values = np.asarray(network.tensors()[name])
        return values.T.reshape(values.shape) if name == "h1/attn/c_attn/w" else values

    other = GPT2(WIDE, read=read)
    proof = prove(expected, run_whole(other))
    assert not proof.holds(QUANTIZED) and proof.equal < 64
    assert "of 64 greedy tokens equal" in proof.describe()


def test_a_small_difference_of_one_step_is_another_model(expected: Expected) -> None:
    """On the text it computes the same, but not with its cache."""

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterable[np.ndarray]:
        if not steps:
            return [np.array([*expected.read_logits()])]
        logits = np.concatenate([np.zeros((len(ids) - 64, WIDE.n_vocab)), expected.steps])
        logits[-1, 7] += wrong * expected.steps.std()
        return [logits]

    wrong = 0.0
    assert prove(expected, logits_of).holds(0.0)
    wrong = 1e-3
    proof = prove(expected, logits_of)
    assert proof.holds(GELU_TABLE) and not proof.holds(ROUNDING)


def test_a_model_that_computes_no_numbers_is_not(expected: Expected) -> None:
    logits = np.array([*expected.read_logits()])
    logits[3, 5] = np.nan
    assert not prove(expected, lambda ids, steps=0: [logits[: len(ids)]]).holds(QUANTIZED)
