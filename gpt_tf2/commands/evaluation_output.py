"""Where `evaluate` writes: its file of predictions, the scores and the journal beside it, for one process at a time."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.backend.starting import is_first_process
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import check_output, is_stream, read_or_empty, write_text
from gpt_tf2.storage.journal import read_job
from gpt_tf2.storage.locks import write_alone
from gpt_tf2.storage.machine import user_cache
from gpt_tf2.tasks.task import Scores, Task

FIX = "choose another `output`, or fix the permissions"


def identify(model_path: str, dataset_path: str) -> str:
    """A short digest of where the model and the data lie, seen from here: the same on all hosts of a run."""
    places = "\0".join(map(os.path.relpath, (model_path, dataset_path)))
    return hashlib.sha256(os.fsencode(places)).hexdigest()[:8]


@contextlib.contextmanager
def claim_output(
    output_file: str | None, model_path: str, dataset_path: str, task: Task, split: str, called: str = ""
) -> Iterator[Path]:
    """Yields the file for the predictions, where no other evaluation writes meanwhile.

    By default it is `output/MODEL_TASK_SPLIT`, with a digest behind if that belongs to another model or other data.

    called: MODEL, by default the name of its folder or file.

    Raises InputError if another process is writing it, or if it cannot be written.
    """
    if output_file:
        output = Path(output_file)
    else:
        model, identity = Path(model_path), identify(model_path, dataset_path)
        called = called or (model.resolve().name if model.is_dir() else model.stem)
        name = f"{called}_{task.name}_{split}"
        output = Path("output") / f"{name}{task.suffix}"
        if is_of_another(output, identity):
            output = output.with_name(f"{name}_{identity}{task.suffix}")
    if is_stream(output):
        raise InputError("a journal and the scores go beside it: give the name of a file", "output", output)
    alone = write_alone(output, "output", locked=output.with_suffix(""))
    with alone if is_first_process() else contextlib.nullcontext():
        for path in (output, scores_path(output), journal_path(output)):
            check_output(path, FIX)
        yield output


@contextlib.contextmanager
def name_temporary_output() -> Iterator[Path]:
    """Yields a file for the predictions in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "predictions"


def is_of_another(output: Path, identity: str) -> bool:
    """Whether the scores of another model or of other data are there, or what a killed evaluation of them has done."""
    job = read_job(journal_path(output))
    if job and not job.startswith(identity):
        return True
    note = note_path(output)
    return scores_path(output).exists() and (note is None or read_or_empty(str(note)) != identity)


def note_path(output: Path) -> Path | None:
    """Where it is noted, in the user's cache folder, which evaluation the scores are of: the file holds but tables."""
    cache = user_cache()
    name = hashlib.sha256(os.fsencode(os.path.realpath(scores_path(output)))).hexdigest()[:16]
    return cache / "evaluations" / name if cache else None


def scores_path(output: Path) -> Path:
    """The file of the scores beside a file of predictions."""
    return output.with_suffix(".scores.json")


def journal_path(output: Path) -> Path:
    """The journal beside a file of predictions."""
    return output.with_name(output.name + ".partial")


def write_scores(output: Path, scores: Scores, model_path: str, dataset_path: str) -> Path:
    """Writes the scores, notes what they are of, and returns their file."""
    note = note_path(output)
    if note:
        with contextlib.suppress(InputError):  # the next default name has a digest then
            write_text(note, identify(model_path, dataset_path))
    write_text(scores_path(output), json.dumps(scores, indent=1) + "\n")
    return scores_path(output)
