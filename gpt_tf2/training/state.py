"""A training run on disk: weights, optimizer state, step and history in one HDF5 file, complete or absent.

Datasets: `model/NAME`, `optimizer/NAME/i`, `losses` [steps], `validation` [validations, 2]. Attributes, as JSON: `run`,
what the result depends on, and `progress`, the trainer's `StepState`. A checksum of the file ends it.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_tf2.checkpoints.hdf5 import atomic_hdf5
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.sealed import check_seal

if TYPE_CHECKING:
    from gpt_tf2.training.trainer import Trainer

SEALED = "checksum"  # the attribute of a file that has one
STATE_FIX = "leave `resume` out to start again"
# What a run also depends on, by the names in the state file. Earlier versions did not save it: their runs resume.
WEIGHTS, VOCABULARY, TEMPLATE = "the weights", "the vocabulary", "the chat template"
# Settings that earlier versions did not have, and what they did.
FORMER = {
    "--too_long": "skip",
    "--highlights": "one",
    "--add_tokens": None,
    "--objective": "likelihood",
    "--base_precision": None,
}
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
        file.attrs[SEALED] = "CRC-32"
        file.attrs["run"] = json.dumps(run)
        state = {key: getattr(trainer.step_state, field) for field, key in STEP_STATE_KEYS.items()}
        file.attrs["progress"] = json.dumps(state)
        for name, variable in trainer.trained.items():
            file[f"model/{name}"] = np.asarray(variable)
            for i, tensor in enumerate(trainer.optimizer_state[name]):
                file[f"optimizer/{name}/{i}"] = np.asarray(tensor)
        file["losses"] = np.asarray(history.losses, "float64")
        file["validation"] = np.asarray(history.validation, "float64").reshape(-1, 2)


def open_state(path: Path) -> HDF5File:
    """Open a saved run. Raises InputError if it is damaged."""
    return open_hdf5(path, STATE_FIX)


def read_run(path: Path) -> dict[str, Any]:
    """Return what a saved run's result depends on. Raises InputError if the file is damaged anywhere."""
    is_sealed, file = check_seal(path, STATE_FIX), open_state(path)
    if SEALED in file.attributes and not is_sealed:
        raise InputError(f"{path} is damaged (its checksum is missing): {STATE_FIX}")
    return read_identity(file)


def read_identity(file: HDF5File) -> dict[str, Any]:
    """Return what a saved run's result depends on, with the settings that earlier versions did not have."""
    run = read_table(file, "run")
    return FORMER | {"--lora_alpha": run.get("--lora_rank", 0)} | run


def read_table(file: HDF5File, name: str) -> dict[str, Any]:
    """Return an attribute that holds a JSON object. Raises InputError if it is damaged."""
    table = parse_json(file.attribute(name), f"{file.path}: {name}", file.fix)
    if not isinstance(table, dict):
        raise InputError(f"{file.path}: {name} is damaged: {file.fix}")
    return table


def load_state(
    path: Path, trainer: "Trainer", run: dict[str, Any], sources: Mapping[str, Path] | None = None
) -> History:
    """Load a saved state into a trainer and its model, tensor by tensor, and return the history.

    Args:
        run: as in `save_state`.
        sources: the files that `WEIGHTS` and `VOCABULARY` were read from, for errors.

    Raises InputError if the file is damaged, or if the saved run differs from `run`.
    """
    file = open_state(path)
    saved_run = read_identity(file)
    check_run(path, run, saved_run, sources or {})
    state = read_table(file, "progress")
    tensors = {f"model/{name}": variable for name, variable in trainer.trained.items()}
    for name, parts in trainer.optimizer_state.items():
        tensors |= {f"optimizer/{name}/{i}": tensor for i, tensor in enumerate(parts)}
    for name, tensor in tensors.items():
        if name not in file.datasets or file.datasets[name].shape != tuple(tensor.shape):
            raise InputError(f"{path}: {name} is missing or of another shape: {file.fix}")
    steps, validations = (file.datasets.get(name) for name in ("losses", "validation"))
    if not steps or len(steps.shape) != 1 or not validations or validations.shape[1:] != (2,):
        raise InputError(f"{path}: the losses are missing or damaged: {file.fix}")
    if not all(isinstance(state.get(key), (int, float)) for key in STEP_STATE_KEYS.values()):
        raise InputError(f"{path}: progress is damaged: {file.fix}")
    for field, key in STEP_STATE_KEYS.items():
        setattr(trainer.step_state, field, state[key])
    for name, tensor in tensors.items():
        value = file.read(name)
        if not np.isfinite(value).all():
            raise InputError(f"{path}: {name} is not finite, so the run has diverged: {file.fix}")
        tensor.assign(trainer.devices.place(value))
    validation = [(int(step), float(loss)) for step, loss in file.read("validation")]
    return History(file.read("losses").tolist(), validation)


def check_run(path: Path, run: dict[str, Any], saved: dict[str, Any], sources: Mapping[str, Path]) -> None:
    """Raise InputError, which names the first difference, unless a run is the saved one."""
    for key, value in run.items():
        if saved.get(key) == value or (key in (WEIGHTS, VOCABULARY, TEMPLATE) and key not in saved):
            continue
        if key in sources:
            problem = f"differs from {key} that the run began with ({path})"
            raise InputError(f"{sources[key]}: {problem}: use the same, or leave `resume` out")
        raise differing(path, key, value, saved.get(key))


def differing(path: Path, key: str, value: object, saved: object) -> InputError:
    """The error for a run that is not the saved one."""
    if key.startswith("--"):
        former = "not set" if saved is None else "empty" if saved == "" else saved
        message = f"was {former} when the run began ({path}): use the same value"
        return InputError(f"{message}, or leave `resume` out", key.removeprefix("--"), None if value == "" else value)
    what = key.replace("--dataset_path", "`data`")
    return InputError(f"{what} has changed since the run began ({path}): use the same, or leave `resume` out")
