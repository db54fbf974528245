"""Training on several devices of JAX, also of several processes: each computes on its share of a batch's sequences.

Weights and optimizer state are whole on every device, or split over them (ZeRO stage 3, Rajbhandari et al. 2020).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from gpt_tf2.backend.compiling import copy_array
from gpt_tf2.backend.devices import take_devices
from gpt_tf2.errors import InputError
from gpt_tf2.model import Tensor

if keras.backend.backend() == "jax":
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

AXIS = "devices"  # of the mesh


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    processes: how many processes the run has.
    is_main: whether this process writes the files and shows progress.
    mesh: JAX's mesh of the devices; None for one.
    splits_weights: whether each device holds a share of the weights and of the optimizer state, instead of all.
    """

    count: int = 1
    processes: int = 1
    is_main: bool = True
    mesh: Any = None
    splits_weights: bool = False

    def split_axis(self, shape: tuple[int, ...]) -> int | None:
        """The axis along which a tensor is split, the longest of those that divide evenly; None if it stays whole."""
        axes = [axis for axis, size in enumerate(shape) if size % self.count == 0]
        return max(axes, key=lambda axis: shape[axis]) if self.splits_weights and axes else None

    def spec(self, shape: tuple[int, ...]) -> Any:
        """JAX's partition of a tensor of the model or of the optimizer."""
        return PartitionSpec(*(AXIS if axis == self.split_axis(shape) else None for axis in range(len(shape))))

    def sharding(self, shape: tuple[int, ...]) -> Any:
        """JAX's sharding of a tensor of the model or of the optimizer; None on one device."""
        return NamedSharding(self.mesh, self.spec(shape)) if self.mesh else None

    def place(self, values: np.ndarray, dtype: str | None = None) -> Tensor:
        """Put a tensor of the model or of the optimizer on the devices."""
        if not self.mesh:
            return copy_array(values, dtype)
        return distribute(np.asarray(values, dtype), self.sharding(values.shape))

    def spread(self, values: np.ndarray) -> Tensor:
        """Spread an array over the devices along its first axis."""
        return distribute(values, NamedSharding(self.mesh, PartitionSpec(AXIS))) if self.mesh else values

    def check_split(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Raise InputError if most of the weights stay whole although they should be split."""
        sizes = [(math.prod(shape), self.split_axis(shape)) for shape in shapes]
        split = sum(size for size, axis in sizes if axis is not None) / sum(size for size, _ in sizes)
        if self.splits_weights and split < 0.5:
            message = (
                f"{self.count} devices divide {split:.0%} of the weights evenly: choose another number of `devices`"
            )
            raise InputError(message, "shard")

    def describe(self) -> str:
        """Return a suffix for a device's name, such as ` × 2`; empty for one device."""
        split = ", weights split" if self.splits_weights else ""
        return f" × {self.count}{split}" if self.count > 1 else ""

    @contextlib.contextmanager
    def report_lost_process(self) -> Iterator[None]:
        """Turn JAX's error into an InputError if another process of the run has ended."""
        try:
            yield
        except RuntimeError as error:
            if self.processes == 1 or "RESOURCE_EXHAUSTED" in str(error):
                raise
            reason = str(error).splitlines()[0][:120]
            raise InputError(
                f"another process of this run has ended ({reason}); the last save is complete: "
                "start all processes again with `resume`"
            ) from None


ONE_DEVICE = Devices()


def distribute(values: np.ndarray, sharding: Any) -> Tensor:
    """Make an array of JAX whose parts lie where a sharding says. Each process has all the values."""
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def find_devices(count: int | None, splits_weights: bool = False) -> Devices:
    """Take the first `count` devices; see `take_devices`.

    Args:
        count: by default all if the weights are split.

    Raises InputError if there are fewer, or if the weights cannot be split.
    """
    if splits_weights and keras.backend.backend() != "jax":
        raise InputError("TensorFlow trains on one device here: set KERAS_BACKEND=jax", "shard")
    taken = take_devices(count, all_by_default=splits_weights)
    if len(taken) == 1:
        if splits_weights:
            raise InputError("needs several devices, but this run has 1: leave it out", "shard")
        return ONE_DEVICE
    processes = jax.process_count()
    if processes > 1 and splits_weights:
        raise InputError("works within one process, over its devices: start one", "shard")
    mesh = jax.sharding.Mesh(np.array(taken), [AXIS])
    return Devices(len(taken), processes, jax.process_index() == 0, mesh, splits_weights)
