"""A training run on disk: weights, optimizer state, step and history in one HDF5 file, complete or absent.

Datasets: `model/NAME`, `optimizer/NAME/i`, `losses` [steps], `validation` [validations, 2]. Attributes, as JSON: `run`,
what the result depends on, and `progress`, the trainer's `StepState`.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from gpt_tf2.checkpoints.hdf5 import READ_ERRORS, atomic_hdf5
from gpt_tf2.errors import InputError
from gpt_tf2.storage.sealed import check_seal

if TYPE_CHECKING:
    from gpt_tf2.training.trainer import Trainer

STEP_STATE_KEYS = {"updates": "updates", "loss_scale": "scale", "updates_at_scale": "held"}  # field → key in the file


@dataclasses.dataclass
class History:
    """The losses of a run, in nats.

    losses: the training loss of every step.
    validation: the number of steps done and the loss, for every validation.
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)


def save_state(path: Path, trainer: "Trainer", history: History, run: dict[str, Any]) -> None:
    """Write the state after `len(history.losses)` steps, atomically.

    Args:
        run: what the result depends on, by `--NAME` of a setting or in words; `load_state` refuses a different one.

    Raises InputError if the file cannot be written.
    """
    with atomic_hdf5(path, sealed=True) as file:
        file.attrs["run"] = json.dumps(run)
        state = {key: getattr(trainer.step_state, field) for field, key in STEP_STATE_KEYS.items()}
        file.attrs["progress"] = json.dumps(state)
        for name, variable in trainer.trained.items():
            file[f"model/{name}"] = np.asarray(variable)
            for i, tensor in enumerate(trainer.optimizer_state[name]):
                file[f"optimizer/{name}/{i}"] = np.asarray(tensor)
        file["losses"] = np.asarray(history.losses, "float64")
        file["validation"] = np.asarray(history.validation, "float64").reshape(-1, 2)


def read_run(path: Path) -> dict[str, Any]:
    """Return what a saved run's result depends on. Raises InputError if the file is damaged anywhere."""
    check_seal(path, "leave `resume` out to start again")
    try:
        with h5py.File(path, "r") as file:
            return json.loads(str(file.attrs["run"]))
    except (*READ_ERRORS, json.JSONDecodeError) as error:
        raise damaged(path, error) from None


def load_state(path: Path, trainer: "Trainer", run: dict[str, Any]) -> History:
    """Load a saved state into a trainer and its model, tensor by tensor, and return the history.

    Raises InputError if the file is damaged, or if the saved run differs from `run`.
    """
    try:
        with h5py.File(path, "r") as file:
            saved_run = json.loads(str(file.attrs["run"]))
            for key, value in run.items():
                if saved_run.get(key) != value:
                    raise differing(path, key, value, saved_run.get(key))
            state = json.loads(str(file.attrs["progress"]))
            for field, key in STEP_STATE_KEYS.items():
                setattr(trainer.step_state, field, state[key])
            for name, variable in trainer.trained.items():
                value = file[f"model/{name}"][()]
                if not np.isfinite(value).all():
                    raise damaged(path, ValueError(f"{name} is not finite"))
                variable.assign(value)
                for i, tensor in enumerate(trainer.optimizer_state[name]):
                    tensor.assign(file[f"optimizer/{name}/{i}"][()])
            validation = [(int(step), float(loss)) for step, loss in file["validation"][()]]
            return History(file["losses"][()].tolist(), validation)
    except (*READ_ERRORS, json.JSONDecodeError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}): leave `resume` out to start again")


def differing(path: Path, key: str, value: object, saved: object) -> InputError:
    """The error for a run that is not the saved one."""
    if key.startswith("--"):
        message = f"was {'empty' if saved == '' else saved} when the run began ({path}): use the same value"
        return InputError(f"{message}, or leave `resume` out", key.removeprefix("--"), None if value == "" else value)
    what = key.replace("--dataset_path", "`dataset_path`")
    return InputError(f"{what} has changed since the run began ({path}): use the same, or leave `resume` out")
