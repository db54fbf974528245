"""What a training step changes besides weights and optimizer state."""

import dataclasses

FIRST_LOSS_SCALE, MAX_LOSS_SCALE = 2.0**15, 2.0**24  # of float16
UPDATES_TO_DOUBLE = 2000  # updates without overflow after which the loss scale doubles


@dataclasses.dataclass
class StepState:
    """The number of updates, and float16's loss scale.

    updates: updates done.
    loss_scale: factor of the loss that keeps float16 gradients from underflow (Micikevicius et al. 2018, section 3.2).
    updates_at_scale: updates since the loss scale last changed.
    """

    updates: int = 0
    loss_scale: float = 1.0
    updates_at_scale: int = 0

    @classmethod
    def first(cls, scales_loss: bool) -> "StepState":
        """The state before the first step."""
        return cls(loss_scale=FIRST_LOSS_SCALE if scales_loss else 1.0)

    def count_update(self, scales_loss: bool) -> None:
        """Count an update, and double the loss scale if it has held for long."""
        self.updates += 1
        self.updates_at_scale += 1
        if scales_loss and self.updates_at_scale == UPDATES_TO_DOUBLE:
            self.loss_scale, self.updates_at_scale = min(self.loss_scale * 2, MAX_LOSS_SCALE), 0

    def skip_update(self) -> None:
        """Halve the loss scale, because gradients overflowed."""
        self.loss_scale, self.updates_at_scale = max(self.loss_scale / 2, 1.0), 0
