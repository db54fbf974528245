"""Learning rates as functions of the step."""

import keras


def step_decay(base: float, decay: float, steps: list[int]) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """`base`, times `decay` from each of the rising `steps` (counted from 0) on."""
    if not steps:
        return base
    # Keras keeps the earlier value up to and including a boundary.
    boundaries = [step - 1 for step in steps]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [base * decay**i for i in range(len(steps) + 1)]
    )
