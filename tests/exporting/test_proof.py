"""The proof: it holds for the same model, and for no other."""

import numpy as np
import pytest

from gpt_tf2 import GPT2
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.exporting.proof import Expected, compute_expected, prove
from gpt_tf2.model import random_tensors
from helpers.exporting import WIDE

TEXT = np.random.default_rng(1).integers(0, WIDE.n_vocab, 200)


@pytest.fixture(scope="module")
def network() -> GPT2:
    return GPT2(WIDE, read=random_tensors(WIDE, seed=3, std=0.3))


@pytest.fixture(scope="module")
def expected(network: GPT2) -> Expected:
    return compute_expected(GraphDecoder(network), TEXT)


def test_the_same_model_is_proved(network: GPT2, expected: Expected) -> None:
    assert len(expected.text) == 128 and len(expected.greedy) == 64
    proof = prove(expected, lambda ids: np.asarray(network(ids[None]))[0])
    assert proof.difference < 1e-3 and proof.equal == 64 and proof.holds("float32")
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
    proof = prove(expected, lambda ids: np.asarray(other(ids[None]))[0])
    assert not proof.holds("float16") and not proof.holds("q8_0") and proof.equal < 64
    assert "of 64 greedy tokens equal" in proof.describe()


def test_a_model_that_computes_no_numbers_is_not(expected: Expected) -> None:
    logits = expected.logits.copy()
    logits[3, 5] = np.nan
    assert not prove(expected, lambda ids: logits[: len(ids)]).holds("q8_0")
