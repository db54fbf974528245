"""Learning-rate schedules: functions of the step, counted from 0."""

import bisect
import math
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]

# AdamW's peak rates for fine-tuning all weights, by the least number of parameters. gpt-2-simple has 1e-4 for 124M,
# nanoGPT 3e-5 and nshepperd's script 2e-5 for the largest; what is between them falls as theirs do. Smaller networks
# than GPT-2's smallest are trained from random weights. Radford et al. 2018 (section 4.1) took 6.25e-5 for 117M.
RATES = ((1.0e9, 2e-5), (5.0e8, 3e-5), (2.0e8, 5e-5), (5.0e7, 1e-4), (0, 1e-3))
# Those for training from random weights: Brown et al. 2020 (table 2.1) have 6e-4 for 125M, 3e-4 for 350M, 2.5e-4 for
# 760M and 2e-4 for 1.3B. nanoGPT has 6e-4 for 124M, too, and 1e-3 for its network of 11M.
RANDOM_RATES = ((1.0e9, 2e-4), (5.0e8, 2.5e-4), (2.0e8, 3e-4), (5.0e7, 6e-4), (0, 1e-3))
LORA_RATE = 2e-4  # of all sizes (Hu et al. 2021, table 11, GPT-2)
# Lion's rates are 3 to 10 times smaller than AdamW's (Chen et al. 2023, section 5). Adafactor's step is a share of a
# tensor's root mean square, which is 0.1 to 0.2 in GPT-2's matrices. Muon's is scaled to AdamW's.
# DPO's rates are far smaller: 1e-6 for up to 6B (Rafailov et al. 2023, appendix B), for batches of 64 pairs.
PREFERENCE_FACTOR = 0.1
FACTORS = {"lion": 0.2, "adafactor": 5.0}


def choose_rate(
    parameters: int, optimizer: str, lora: bool, from_scratch: bool = False, prefers: bool = False
) -> float:
    """Return a peak learning rate that suits a model's size, the optimizer, and what is trained.

    Args:
        lora: whether LoRA adapters are trained.
        from_scratch: whether the weights begin as random ones.
        prefers: whether preferences are learned, by DPO.

    Example:
        >>> choose_rate(355_000_000, "adamw", lora=False)
        5e-05
    """
    rates = RANDOM_RATES if from_scratch else RATES
    rate = LORA_RATE if lora else next(rate for least, rate in rates if parameters >= least)
    return rate * FACTORS.get(optimizer, 1.0) * (PREFERENCE_FACTOR if prefers else 1.0)


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
