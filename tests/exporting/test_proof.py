"""The proof: it holds for the same model, and for no other."""

import numpy as np
import pytest

from gpt_tf2 import GPT2
from gpt_tf2.commands.export_settings import GELU_TABLE, QUANTIZED, ROUNDING
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.exporting.proof import Expected, LogitsOf, compute_expected, prove
from gpt_tf2.model import random_tensors
from helpers.exporting import WIDE

TEXT = np.random.default_rng(1).integers(0, WIDE.n_vocab, 200)


@pytest.fixture(scope="module")
def network() -> GPT2:
    return GPT2(WIDE, read=random_tensors(WIDE, seed=3, std=0.3))


def run(network: GPT2) -> LogitsOf:
    return lambda ids, steps=0: np.asarray(network(ids[None]))[0]


@pytest.fixture(scope="module")
def expected(network: GPT2) -> Expected:
    return compute_expected(GraphDecoder(network), TEXT)


def test_the_same_model_is_proved(network: GPT2, expected: Expected) -> None:
    assert len(expected.text) == 128 and len(expected.greedy) == 64
    proof = prove(expected, run(network))
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
    proof = prove(expected, run(other))
    assert not proof.holds(QUANTIZED) and proof.equal < 64
    assert "of 64 greedy tokens equal" in proof.describe()


def test_a_small_difference_of_one_step_is_another_model(expected: Expected) -> None:
    """On the text it computes the same, but not with its cache."""

    def logits_of(ids: np.ndarray, steps: int = 0) -> np.ndarray:
        if not steps:
            return expected.logits
        logits = np.concatenate([np.zeros((len(ids) - 64, WIDE.n_vocab)), expected.steps])
        logits[-1, 7] += wrong * expected.logits.std()
        return logits

    wrong = 0.0
    assert prove(expected, logits_of).holds(0.0)
    wrong = 1e-3
    proof = prove(expected, logits_of)
    assert proof.holds(GELU_TABLE) and not proof.holds(ROUNDING)


def test_a_model_that_computes_no_numbers_is_not(expected: Expected) -> None:
    logits = expected.logits.copy()
    logits[3, 5] = np.nan
    assert not prove(expected, lambda ids, steps=0: logits[: len(ids)]).holds(QUANTIZED)
