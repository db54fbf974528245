"""The `Trainer` on JAX, where a step is one compiled graph."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np

from gpt_tf2.data.batches import Batch, parts
from gpt_tf2.model import GPT2, Tensor
from gpt_tf2.training.blockwise import DRAWS_PER_BLOCK, DRAWS_PER_STEP
from gpt_tf2.training.compiled_step import Arrays, StepGraph, Trained
from gpt_tf2.training.devices import ONE_DEVICE, Devices
from gpt_tf2.training.optimizers import Optimizer
from gpt_tf2.training.step_state import StepState

SHAPES = 4  # numbers of predicted tokens, at most, of a micro-batch of one width


class CompiledTrainer:
    """A `Trainer` whose step is one graph of XLA's. `step` returns while the device is still computing.

    For the arguments see `make_trainer`.
    """

    steps_ahead = 3

    def __init__(
        self,
        model: GPT2,
        optimizer: Optimizer,
        trained: Collection[str] | None = None,
        remat: bool = False,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        devices: Devices = ONE_DEVICE,
    ):
        self.accumulate = accumulate
        self.devices = devices
        tensors = model.tensors()
        names = [name for name in tensors if not trained or name in trained]
        self.graph = StepGraph(
            model.config,
            model.compute_dtype,
            model.dropout,
            optimizer,
            frozenset(names),
            remat,
            clip_norm,
            devices,
        )
        self.step_state = StepState.first(self.graph.scales_loss)
        self._model = model
        self._trained = {name: tensors[name] for name in names}
        self._frozen = {name: variable for name, variable in tensors.items() if name not in self._trained}
        self._optimizer_state = {
            name: tuple(self._zeros(shape, f"{name}/{i}") for i, shape in enumerate(optimizer.state_shapes(v.shape)))
            for name, v in self._trained.items()
        }
        self._arrays: Trained | None = None  # newer than the variables

    @property
    def model(self) -> GPT2:
        """The network, its variables up to date."""
        self._write_back()
        return self._model

    @property
    def trained(self) -> dict[str, keras.Variable]:
        """The trained variables by OpenAI's names, up to date."""
        self._write_back()
        return self._trained

    @property
    def optimizer_state(self) -> dict[str, tuple[keras.Variable, ...]]:
        """For each trained variable a tuple of variables, up to date."""
        self._write_back()
        return self._optimizer_state

    def step(self, batch: Batch, rate: float, seed: int = 0, step: int = 0) -> Tensor:
        """Train on a batch once.

        Args:
            rate: the learning rate.
            seed, step: decide what dropout drops.

        Returns:
            The mean loss before the update, in nats: a float32 scalar on the device, which may still be computing it.
            For pairs float32 [3]; see `Trainer`.
        """
        state = self.step_state
        self._arrays, loss, is_finite = self.graph.step(
            self._read_arrays(),
            {name: variable.value for name, variable in self._frozen.items()},
            split(batch, self.accumulate, self.devices),
            number_draws(len(self._model.blocks), seed, step),
            np.float32(batch.total),
            np.float32(rate),
            np.float32(state.updates + 1),
            np.float32(state.loss_scale),
            packed=is_packed(batch),
        )
        if self.graph.scales_loss and not bool(is_finite):
            state.skip_update()
        else:
            state.count_update(self.graph.scales_loss)
        return loss

    def loss(self, batch: Batch) -> Any:
        """Compute the mean loss on a batch, in nats, without dropout; for pairs float64 [3]."""
        weights = {name: weight for name, (weight, _) in self._read_arrays().items()}
        frozen = {name: variable.value for name, variable in self._frozen.items()}
        (whole,) = split(batch, 1, self.devices)
        sums = self.graph.loss(weights | frozen, whole, packed=is_packed(batch))
        return np.asarray(sums, "float64") / batch.total

    def _write_back(self) -> None:
        """Assign the arrays of the last step to the variables. That takes milliseconds, so a step does not do it."""
        for name, (weight, state) in (self._arrays or {}).items():
            self._trained[name].assign(weight)
            for variable, array in zip(self._optimizer_state[name], state, strict=True):
                variable.assign(array)
        self._arrays = None

    def _read_arrays(self) -> Trained:
        """The arrays of the last step, or those of the variables, which may have been loaded since."""
        return self._arrays or {
            name: (variable.value, tuple(tensor.value for tensor in self._optimizer_state[name]))
            for name, variable in self._trained.items()
        }

    def _zeros(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        zeros = jnp.zeros(shape, "float32", device=self.devices.sharding(shape))  # made where it lies
        return keras.Variable(zeros, trainable=False, name=name.replace("/", "_"))


def split(batch: Batch, accumulate: int, devices: Devices) -> tuple[Arrays, ...]:
    """The micro-batches of a batch, equal in shape, each spread over the devices."""
    if accumulate == devices.count == 1:
        return (vars(batch),)
    shares = [[drop_padding(share) for share in parts(micro, devices.count)] for micro in parts(batch, accumulate)]
    rows = max(len(share.tokens) for micro in shares for share in micro)
    picks = max(len(share.picks) for micro in shares for share in micro)
    # To quarters of all tokens, because each new shape costs a compilation.
    tokens = rows * batch.tokens.shape[1]
    picks = min(-(-picks * SHAPES // tokens) * tokens // SHAPES, tokens)
    return tuple(join([pad(share, rows, picks) for share in micro], devices) for micro in shares)


def drop_padding(batch: Batch) -> Batch:
    """A batch without the picks of weight 0."""
    is_learned = batch.weights > 0
    of_picks = {name: array[is_learned] for name, array in vars(batch).items() if array.ndim == 1}
    return dataclasses.replace(batch, **of_picks)


def join(shares: list[Batch], devices: Devices) -> Arrays:
    """One device's sequences after the other's, on the devices. Picks count from a device's own first token."""
    missing = [pad(empty_like(shares[0]), len(shares[0].tokens), len(shares[0].picks))] * (devices.count - len(shares))
    arrays = {name: [vars(share)[name] for share in shares + missing] for name in vars(shares[0])}
    return {name: devices.spread(np.concatenate(own)) for name, own in arrays.items()}


def empty_like(batch: Batch) -> Batch:
    """A batch without a sequence."""
    return type(batch)(**{name: array[:0] for name, array in vars(batch).items()})


def pad(batch: Batch, rows: int, picks: int) -> Batch:
    """A batch with empty sequences and picks of weight 0 added, so that it has `rows` and `picks` of them."""
    more_rows, more_picks = rows - len(batch.tokens), picks - len(batch.picks)
    if not more_rows and not more_picks:
        return batch
    more: dict[int, Any] = {2: ((0, more_rows), (0, 0)), 1: (0, more_picks)}  # by the number of an array's axes
    return type(batch)(**{name: np.pad(array, more[array.ndim]) for name, array in vars(batch).items()})


def is_packed(batch: Batch) -> bool:
    """Whether a sequence of the batch holds more than one segment, or padding."""
    return bool((batch.segments != 1).any())


def number_draws(blocks: int, seed: int, step: int) -> np.ndarray:
    """The states of the random generator for a step's dropout, uint32 [blocks + 1, 2]."""
    first = step * DRAWS_PER_STEP + DRAWS_PER_BLOCK * np.arange(blocks + 1)
    return np.stack([np.full(blocks + 1, seed), first], axis=1).astype("uint32")
