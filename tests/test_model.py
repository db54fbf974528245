"""The network against OpenAI's graph and against transformers. Runs on either backend."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from keras import ops

from gpt_tf2 import GPT2, GPT2Config, InputError, load_model
from gpt_tf2.checkpoints.huggingface import transformers_name
from gpt_tf2.config import SIZES, tensor_shapes
from gpt_tf2.data.batches import whole_rows
from gpt_tf2.model import causal_mask
from gpt_tf2.training.blockwise import BlockwiseModel
from gpt_tf2.training.optimizers import AdamW
from gpt_tf2.training.trainer import make_trainer
from helpers.gradients import loss_and_gradients
from helpers.workplace import OPENAI_TINY

EXPECTED = np.load(OPENAI_TINY / "expected.npz")
SMALL = GPT2Config(n_vocab=300, n_ctx=32, n_embd=24, n_head=3, n_layer=2)


@pytest.fixture(scope="module")
def tiny() -> GPT2:
    return load_model(OPENAI_TINY)


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_logits_equal_those_of_openais_graph(tiny: GPT2) -> None:
    logits = np.asarray(tiny(EXPECTED["tokens"]))
    assert logits.dtype == np.float32
    assert relative_difference(logits, EXPECTED["logits"]) <= 1e-5


def test_the_loss_equals_that_of_openais_graph(tiny: GPT2) -> None:
    batch = whole_rows(EXPECTED["tokens"])
    losses = loss_and_gradients(tiny, batch)[0], float(BlockwiseModel(tiny, ()).loss(batch)) / batch.weights.sum()
    assert losses == pytest.approx((float(EXPECTED["loss"]),) * 2, rel=1e-6)


def test_a_cache_does_not_change_hidden_states_or_keys_and_values(tiny: GPT2) -> None:
    tokens = EXPECTED["tokens"]
    expected, all_keys_values = tiny.hidden(tokens, ops.arange(64)[None], causal_mask(64))
    _, cache = tiny.hidden(tokens[:, :40], ops.arange(40)[None], causal_mask(40))
    cache_mask = ops.ones((1, 1, 24, 40), "bool")
    x, keys_values = tiny.hidden(tokens[:, 40:], ops.arange(40, 64)[None], causal_mask(24), cache, cache_mask)
    assert relative_difference(np.asarray(x), np.asarray(expected)[:, 40:]) <= 1e-5
    assert relative_difference(np.asarray(keys_values[-1][1]), np.asarray(all_keys_values[-1][1])[:, :, 40:]) <= 1e-5


def test_a_token_does_not_affect_earlier_logits(tiny: GPT2) -> None:
    tokens = EXPECTED["tokens"][:1].copy()
    before = np.asarray(tiny(tokens))
    tokens[0, 30] = (tokens[0, 30] + 1) % 512
    after = np.asarray(tiny(tokens))
    assert np.array_equal(before[0, :30], after[0, :30])
    assert not np.array_equal(before[0, 30:], after[0, 30:])


def test_more_tokens_than_the_context_are_refused(tiny: GPT2) -> None:
    with pytest.raises(InputError, match="65 tokens, but n_ctx is 64"):
        tiny(np.zeros((1, 65), "int32"))


def test_dropout_acts_only_in_training_and_follows_its_seed() -> None:
    model = GPT2(SMALL, dropout=0.3)
    tokens = np.arange(32)[None]
    without = np.asarray(model(tokens))
    assert np.array_equal(without, np.asarray(GPT2(SMALL)(tokens)))

    def drop(seed: int) -> np.ndarray:
        model.dropout_seed.state.assign(np.array([seed, 0], "uint32"))
        return np.asarray(model(tokens, training=True))

    assert not np.array_equal(drop(1), without)
    assert np.array_equal(drop(1), drop(1))
    assert not np.array_equal(drop(1), drop(2))


def test_random_weights_follow_the_paper() -> None:
    model = GPT2(GPT2Config(n_vocab=2000, n_ctx=64, n_embd=96, n_head=4, n_layer=8))
    tensors = {name: np.asarray(variable) for name, variable in model.tensors().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(model.config)
    assert tensors["wte"].std() == pytest.approx(0.02, rel=0.02)
    assert tensors["h3/mlp/c_proj/w"].std() == pytest.approx(0.02 / 4, rel=0.02)
    assert (tensors["ln_f/g"] == 1).all() and (tensors["h0/attn/c_attn/b"] == 0).all()
    assert not np.array_equal(tensors["h0/mlp/c_fc/w"], tensors["h1/mlp/c_fc/w"])


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same random weights here and in transformers."""

    ours: GPT2
    theirs: Any
    tokens: np.ndarray  # [2, 48]


@pytest.fixture(
    scope="module", params=[GPT2Config(2000, 48, 96, 4, 2), pytest.param(SIZES["124M"], marks=pytest.mark.slow)]
)
def pair(request: pytest.FixtureRequest) -> Pair:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    size = request.param
    model = GPT2(size, seed=1)
    generator = np.random.default_rng(0)
    for name, variable in model.tensors().items():
        if name.endswith(("/b", "/g")):  # no bias of 0, no gain of 1
            variable.assign(np.asarray(variable) + 0.1 * generator.standard_normal(variable.shape).astype("float32"))
    names = {"vocab_size": size.n_vocab, "n_positions": size.n_ctx, "n_embd": size.n_embd, "n_head": size.n_head}
    config = transformers.GPT2Config(**names, n_layer=size.n_layer, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    theirs = transformers.GPT2LMHeadModel(config)
    state = {transformers_name(name): torch.tensor(np.asarray(v)) for name, v in model.tensors().items()}
    missing = theirs.load_state_dict(state, strict=False)
    assert missing.missing_keys == ["lm_head.weight"] and not missing.unexpected_keys
    theirs.tie_weights()
    return Pair(model, theirs, generator.integers(0, size.n_vocab, (2, 48)).astype("int32"))


def test_logits_and_every_gradient_equal_those_of_transformers(pair: Pair) -> None:
    import torch

    ids = torch.tensor(pair.tokens, dtype=torch.long)
    result = pair.theirs(ids, labels=ids)
    assert relative_difference(np.asarray(pair.ours(pair.tokens)), result.logits.detach().numpy()) <= 1e-4
    result.loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in pair.theirs.named_parameters()}
    _, gradients = loss_and_gradients(pair.ours, whole_rows(pair.tokens))
    assert len(gradients) == len(expected) == 4 + 12 * pair.ours.config.n_layer
    for name, gradient in gradients.items():
        assert relative_difference(gradient, expected[transformers_name(name)]) <= 1e-4, name


def test_adam_steps_equal_torchs(pair: Pair) -> None:
    import torch

    steps, rate = (4, 1e-4) if pair.ours.config == SIZES["124M"] else (10, 3e-3)
    ids = torch.tensor(pair.tokens, dtype=torch.long)
    optimizer = torch.optim.Adam(pair.theirs.parameters(), lr=rate, eps=1e-8)
    expected = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = pair.theirs(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    trainer = make_trainer(pair.ours, AdamW())
    losses = [trainer.step(whole_rows(pair.tokens), rate) for _ in range(steps)]
    assert expected[-1] < expected[0] - 0.1 * steps
    assert losses == pytest.approx(expected, rel=5e-5)
