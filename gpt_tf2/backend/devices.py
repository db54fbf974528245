"""The devices that a run uses."""

from typing import Any

from gpt_tf2.errors import InputError


def take_devices(count: int | None, all_by_default: bool = False) -> list[Any]:
    """Take the first `count` of JAX's devices, those of all processes. TensorFlow has one here, None.

    The backend is started already.

    Args:
        count: by default 1, or all if this run has several processes.
        all_by_default: makes it all for one process, too.

    Raises InputError if there are fewer, if several processes have more, or on TensorFlow if `count` is above 1.
    """
    import keras

    if keras.backend.backend() != "jax":
        if (count or 1) > 1:
            raise InputError("TensorFlow runs on one device here: set KERAS_BACKEND=jax", "devices", count)
        return [None]
    import jax

    processes, available = jax.process_count(), jax.devices()
    if processes > 1 and count not in (None, len(available)):
        message = f"the {processes} processes have {len(available)}: leave it out to use all"
        raise InputError(message, "devices", count)
    wanted = count or (len(available) if processes > 1 or all_by_default else 1)
    if wanted > len(available):
        message = f"JAX sees {len(available)} ({available[0].platform}): give that many or fewer"
        raise InputError(message, "devices", wanted)
    return available[:wanted]
