"""Learning-rate schedules: functions of the step, counted from 0."""

import bisect
import math
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def step_decay(base: float, decay: float, steps: Sequence[int]) -> Schedule:
    """Return a schedule that starts at `base` and is multiplied by `decay` at each of the rising `steps`."""
    return lambda step: base * decay ** bisect.bisect_right(steps, step)


def cosine_decay(base: float, final: float, steps: int) -> Schedule:
    """Return a schedule from `base` to the share `final` of it at the last of `steps`, along half a cosine.

    Without restarts (Loshchilov and Hutter 2017, equation 5).
    """
    return lambda step: base * (final + (1 - final) * (1 + math.cos(math.pi * step / max(1, steps - 1))) / 2)


def with_warmup(schedule: Schedule, steps: int) -> Schedule:
    """Return the schedule with a linear rise from nearly 0 over its first `steps`."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / (steps + 1))
