"""A training run on disk: what is trained, optimizer, step and history in one file: a save is whole or not there."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from gpt_tf2.checkpoints.hdf5 import READ_ERRORS, atomic_hdf5
from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    from gpt_tf2.training.trainer import Trainer


@dataclasses.dataclass
class Progress:
    """What of a trainer changes besides weights and slots.

    updates: that were done. scale: of the loss, against underflow in float16. held: updates since it was last changed.
    """

    updates: int = 0
    scale: float = 1.0
    held: int = 0


@dataclasses.dataclass
class History:
    """losses: the training loss of every step. validation: (steps done, loss) of every validation."""

    losses: list[float] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)


def save_state(path: Path, trainer: "Trainer", history: History, run: dict) -> None:
    """Writes the state after `len(history.losses)` steps, atomically.

    Args:
        run: what the run's result depends on; `load_state` refuses another one.

    Raises InputError if the file cannot be written.
    """
    with atomic_hdf5(path) as file:
        file.attrs["run"] = json.dumps(run)
        file.attrs["progress"] = json.dumps(dataclasses.asdict(trainer.progress))
        for name, variable in trainer.trained.items():
            file[f"model/{name}"] = np.asarray(variable)
            for i, slot in enumerate(trainer.slots[name]):
                file[f"optimizer/{name}/{i}"] = np.asarray(slot)
        file["losses"] = np.asarray(history.losses, "float64")
        file["validation"] = np.asarray(history.validation, "float64").reshape(-1, 2)


def read_run(path: Path) -> dict:
    """What a saved run's result depends on. Raises InputError if the file is damaged."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(str(file.attrs["run"]))
    except (*READ_ERRORS, json.JSONDecodeError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"--resume: {path} is damaged ({error}): leave --resume out to start again")


def load_state(path: Path, trainer: "Trainer", run: dict) -> History:
    """Puts a saved state into a trainer and its model, tensor by tensor.

    Raises InputError if the file is damaged, or a setting that its result depends on has changed.
    """
    try:
        with h5py.File(path, "r") as file:
            begun = json.loads(str(file.attrs["run"]))
            for name, value in run.items():
                if begun.get(name) != value:
                    was = f"{value!r} now, {begun.get(name)!r} when the run began"
                    raise InputError(f"--resume: {name} is {was} ({path}): give that again, or leave --resume out")
            trainer.progress = Progress(**json.loads(str(file.attrs["progress"])))
            for name, variable in trainer.trained.items():
                variable.assign(file[f"model/{name}"][()])
                for i, slot in enumerate(trainer.slots[name]):
                    slot.assign(file[f"optimizer/{name}/{i}"][()])
            validation = [(int(step), float(loss)) for step, loss in file["validation"][()]]
            return History(file["losses"][()].tolist(), validation)
    except (*READ_ERRORS, json.JSONDecodeError) as error:
        raise damaged(path, error) from None
