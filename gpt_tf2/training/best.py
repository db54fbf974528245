"""The best weights of a run, by its validation loss, and when a run stops because they no longer get better."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import write_text
from gpt_tf2.storage.json_text import read_json

Validation = tuple[int, float]  # steps done, and the mean loss on the held-out data, in nats


def find_best(validations: Sequence[Validation]) -> Validation | None:
    """Return the validation with the lowest loss, the first of equal ones.

    The one before the first step does not count: its weights are those that the run began with. Neither does a loss
    that is not finite. None if no other is left.

    Example:
        >>> find_best([(0, 1.0), (6, 3.0), (12, 2.5), (18, 2.6)])
        (12, 2.5)
    """
    return min(filter(counts, validations), key=lambda validation: validation[1], default=None)


def count_without_improvement(validations: Sequence[Validation]) -> int:
    """Return how many validations a run has done after its best one.

    Example:
        >>> count_without_improvement([(0, 4.0), (6, 3.0), (12, 3.1), (18, 3.0)])
        2
    """
    best = find_best(validations)
    return sum(step > (best[0] if best else 0) for step, _ in validations)


def counts(validation: Validation) -> bool:
    """Whether a validation may be the best one."""
    step, loss = validation
    return step > 0 and math.isfinite(loss)


class BestWeights:
    """The best weights that a run has written.

    No copy of them is held in memory: they are written when they are found.

    Args:
        kept: the validation of the weights in the run's file; None if the file holds none of this run, as after a run
            of a version that kept the last weights only.
        write_weights: writes the network's current weights, which a validation belongs to.
    """

    def __init__(self, kept: Validation | None, write_weights: Callable[[Validation], None]):
        self.kept = kept
        self.write_weights = write_weights

    def is_beaten_by(self, validation: Validation) -> bool:
        """Whether a validation is better than that of the weights in the file."""
        return counts(validation) and (self.kept is None or validation[1] < self.kept[1])

    def write(self, validation: Validation) -> None:
        """Write the current weights, which a validation belongs to."""
        self.write_weights(validation)
        self.kept = validation


def write_best(path: Path, validation: Validation) -> None:
    """Write down which validation the weights in a run's file belong to. Raises InputError if that fails."""
    step, loss = validation
    write_text(path, json.dumps({"step": step, "validation_loss": loss}) + "\n")


def read_best(path: Path) -> Validation | None:
    """Read what `write_best` wrote; None if there is no such file. Raises InputError if it is damaged."""
    if not path.is_file():
        return None
    content = read_json(path)
    step, loss = (content.get(key) if isinstance(content, dict) else None for key in ("step", "validation_loss"))
    if type(step) is not int or type(loss) is not float or not counts((step, loss)):
        raise InputError(f"{path}: damaged: delete it, and `resume` keeps the best weights from now on")
    return step, loss
