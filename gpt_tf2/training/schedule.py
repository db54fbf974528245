"""Learning rates as functions of the step, counted from 0."""

import bisect
import math
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def step_decay(base: float, decay: float, steps: Sequence[int]) -> Schedule:
    """`base`, times `decay` from each of the rising `steps` on."""
    return lambda step: base * decay ** bisect.bisect_right(steps, step)


def cosine(base: float, share: float, steps: int) -> Schedule:
    """From `base` along half a cosine to `share` of it at the last of `steps` (Loshchilov and Hutter 2017)."""
    return lambda step: base * (share + (1 - share) * (1 + math.cos(math.pi * step / max(1, steps - 1))) / 2)


def warmed_up(schedule: Schedule, steps: int) -> Schedule:
    """A schedule that rises evenly from nearly 0 over its first `steps`."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / (steps + 1))
