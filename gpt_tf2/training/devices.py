"""Data parallelism on JAX: a batch's sequences spread over several devices, also of several processes.

Every device holds all weights (keras.distribution); XLA adds the exchange of gradients to the compiled graphs.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from gpt_tf2.data.batches import Batch
from gpt_tf2.errors import InputError

if keras.backend.backend() == "jax":
    import jax


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    processes: how many processes the run has.
    is_main: whether this process writes the files and shows progress.
    sharding: JAX's sharding of a batch's first axis; None on one device.
    """

    count: int = 1
    processes: int = 1
    is_main: bool = True
    sharding: Any = None

    def shard(self, batch: Batch) -> Batch:
        """Spread a batch's sequences and picks over the devices, padded to a multiple of their number."""
        if self.sharding is None:
            return batch
        arrays: dict[str, Any] = {name: self._pad(array) for name, array in vars(batch).items()}
        for name in ("tokens", "positions", "segments", "picks"):
            array = arrays[name]
            arrays[name] = jax.make_array_from_callback(array.shape, self.sharding, array.__getitem__)
        return Batch(**arrays)

    def describe(self) -> str:
        """Return a suffix for a device's name, such as ` × 2`; empty for one device."""
        return f" × {self.count}" if self.count > 1 else ""

    @contextlib.contextmanager
    def report_lost_process(self) -> Iterator[None]:
        """Turn JAX's error into an InputError if another process of the run has ended."""
        try:
            yield
        except RuntimeError as error:
            if self.processes == 1:
                raise
            reason = str(error).splitlines()[0][:120]
            raise InputError(
                f"another process of this run has ended ({reason}); the last save is complete: "
                "start all processes again with `resume`"
            ) from None

    def _pad(self, array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, -len(array) % self.count), *[(0, 0)] * (array.ndim - 1)])


def find_devices(count: int | None) -> Devices:
    """Take the first `count` devices. Call it before the model is made.

    Args:
        count: by default 1, or all devices if this run has several processes.

    Raises InputError if there are fewer, or on TensorFlow if `count` is above 1.
    """
    if keras.backend.backend() != "jax":
        if (count or 1) > 1:
            raise InputError("TensorFlow trains on one device here: set KERAS_BACKEND=jax", "devices", count)
        return Devices()
    processes, available = jax.process_count(), jax.devices()
    if processes > 1 and count not in (None, len(available)):
        message = f"the {processes} processes have {len(available)}: leave it out to use all"
        raise InputError(message, "devices", count)
    wanted = count or (len(available) if processes > 1 else 1)
    if wanted > len(available):
        message = f"JAX sees {len(available)} ({available[0].platform}): give that many or fewer"
        raise InputError(message, "devices", wanted)
    if wanted == 1:
        return Devices()
    names = [f"{device.platform}:{device.id}" for device in available[:wanted]]
    mesh = keras.distribution.DeviceMesh((wanted,), ["batch"], devices=names)
    keras.distribution.set_distribution(keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False))
    jax_mesh = jax.sharding.Mesh(np.array(available[:wanted]), ["batch"])
    sharding = jax.sharding.NamedSharding(jax_mesh, jax.sharding.PartitionSpec("batch"))
    return Devices(wanted, processes, jax.process_index() == 0, sharding)
