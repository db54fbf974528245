"""The reference of a run with DPO: computed once with the weights that the run begins with, and kept."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_tf2.commands.progress import Counter, print_to_stderr
from gpt_tf2.commands.run import Run
from gpt_tf2.data.pairs import PackedPairs
from gpt_tf2.data.prepared import data_sources, locate_kept
from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import open_or_build
from gpt_tf2.tasks.data_files import is_stream
from gpt_tf2.training.state import WEIGHTS, check_run

if TYPE_CHECKING:
    from gpt_tf2.model import GPT2

FILE = "log_probabilities"  # float32 [spans], of the training data and then of that held out


def with_reference(run: Run, network: "GPT2") -> Run:
    """The run, its pairs with the reference.

    It is kept beside the prepared tokens, if they are kept. A process of several computes its own.

    Args:
        network: with the weights that were read.

    Raises InputError if the run is not the saved one, or if both the reference and the first weights are lost.
    """
    if run.saved is not None:  # now, not after the reference is computed
        check_run(run.state, run.identity, run.saved, run.sources())
    settings, pairs = run.settings, list_pairs(run)
    label, is_shown = "computing the reference", run.call.is_shown and run.devices.is_main

    def measure() -> np.ndarray:
        from gpt_tf2.training.reference import measure_reference

        if run.identity[WEIGHTS] != run.digests:
            message = "holds what the run has trained, and the reference beside the data is lost: leave `resume` out"
            raise InputError(message, "model", run.model.path)
        with Counter(label, "pairs", shown=is_shown) as counter:
            batch_size = -(-settings.batch_size // settings.accumulate)
            return np.concatenate(measure_reference(network, pairs, batch_size, counter.show))

    def build(folder: Path) -> dict[str, Any]:
        (folder / FILE).write_bytes(measure().tobytes())
        return {}

    is_kept = not is_stream(settings.data) and (settings.cache or not run.call.is_in_memory)
    if not is_kept or run.devices.processes > 1:
        reference = measure()
    else:
        key = identify(run)
        with open_or_build(
            locate_kept(f"reference-{key[:8]}", settings.data, settings.cache),
            key,
            data_sources(settings.data),
            build,
            on_wait=lambda: print_to_stderr(f"{settings.data}: another run is {label}; waiting"),
            fix="free space, or set `cache` to another folder",
            changed=InputError("changed while it was read: start again", "data", settings.data),
        ) as kept:
            reference = np.fromfile(kept.folder / FILE, "float32")
    ends = np.cumsum([len(part.tokens.ends) for part in pairs])
    references = np.split(reference, ends[:-1])
    training, *held_out = (part.with_reference(own) for part, own in zip(pairs, references, strict=True))
    return dataclasses.replace(run, training=training, held_out=held_out[0] if held_out else None)


def list_pairs(run: Run) -> list[PackedPairs]:
    """The pairs to train on, and those held out, if any are."""
    return [data for data in (run.training, run.held_out) if isinstance(data, PackedPairs)]


def identify(run: Run) -> str:
    """Hash what the reference depends on besides the data: weights, tokens, and how they are computed."""
    settings = run.settings
    computed = [settings.precision, settings.held(), settings.base_precision]
    counts = [len(part.examples) for part in list_pairs(run)]  # how the data is divided
    parts = [run.identity[WEIGHTS], run.identity["the model"], run.data.key, settings.length, counts, *computed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
