"""Data parallelism: the rows of a batch over several devices, also of several processes, by JAX and keras.distribution.

The weights are on all of them; XLA puts the exchange of gradients into the graphs.
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
    """The devices that batches are spread over.

    processes: of the run. first: whether this process is the one that writes files and speaks.
    """

    count: int = 1
    processes: int = 1
    first: bool = True
    sharding: Any = None

    def place(self, batch: Batch) -> Batch:
        """The batch with its rows spread, and the places that are learned; filled up with empty ones to go round."""
        if self.sharding is None:
            return batch
        filled: dict[str, Any] = {name: self._filled(array) for name, array in vars(batch).items()}
        for name in ("tokens", "positions", "segments", "picks"):
            array = filled[name]
            filled[name] = jax.make_array_from_callback(array.shape, self.sharding, array.__getitem__)
        return Batch(**filled)

    def note(self) -> str:
        """How many there are, to be put behind their name; nothing of one."""
        return f" × {self.count}" if self.count > 1 else ""

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Raises InputError from within if another process of the run is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.processes == 1:
                raise
            raise InputError(
                f"another process of this run has ended ({str(error).splitlines()[0][:120]}): "
                "the last save is whole; start all processes again with --resume"
            ) from None

    def _filled(self, array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, -len(array) % self.count), *[(0, 0)] * (array.ndim - 1)])


def find_devices(count: int | None) -> Devices:
    """Takes the first `count` devices, or all if this run is of several processes; to be called before a model is made.

    Raises InputError if there are not as many.
    """
    if keras.backend.backend() != "jax":
        if (count or 1) > 1:
            raise InputError(f"--devices {count}: TensorFlow trains on one here: set KERAS_BACKEND=jax")
        return Devices()
    processes, there = jax.process_count(), jax.devices()
    if processes > 1 and count not in (None, len(there)):
        raise InputError(f"--devices {count}: the {processes} processes have {len(there)}: leave it out to take all")
    wanted = count or (len(there) if processes > 1 else 1)
    if wanted > len(there):
        raise InputError(f"--devices {wanted}: JAX sees {len(there)} ({there[0].platform}): give that, or fewer")
    if wanted == 1:
        return Devices()
    names = [f"{device.platform}:{device.id}" for device in there[:wanted]]
    mesh = keras.distribution.DeviceMesh((wanted,), ["batch"], devices=names)
    keras.distribution.set_distribution(keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False))
    own = jax.sharding.Mesh(np.array(there[:wanted]), ["batch"])
    sharding = jax.sharding.NamedSharding(own, jax.sharding.PartitionSpec("batch"))
    return Devices(wanted, processes, jax.process_index() == 0, sharding)
