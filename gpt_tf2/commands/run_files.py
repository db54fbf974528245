"""What a fine-tuning run writes: its state, its models, its recipe and its curve."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.checkpoints import adapters, peft
from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.opened import save_model
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.commands.recipes import RECIPE, format_recipe
from gpt_tf2.commands.run import Run
from gpt_tf2.commands.version import describe_version
from gpt_tf2.storage.files import write_text
from gpt_tf2.tasks.data_files import is_stream
from gpt_tf2.training.best import Validation, write_best
from gpt_tf2.training.state import History, save_state

if TYPE_CHECKING:
    from gpt_tf2.training.trainer import Trainer


def make_recipe(run: Run) -> str:
    """The text of run.toml, with which the run can be repeated. Raises InputError if it cannot hold a path."""
    output = str(run.output)
    settings = dataclasses.replace(run.settings, output=output if "/" in output else f"./{output}", output_name=None)
    path = companion_folder(run.output) / RECIPE
    comments = [
        f"gpt-tf2 finetune --config {shlex.quote(str(path))}",
        "in the same folder repeats this run, bit for bit if these are the same:",
        f"{describe_version()}, {run.device}",
    ]
    if is_stream(run.settings.data):
        comments.append("But the data came from a pipe: give the same again.")
    if run.call.callbacks:
        comments.append("But a program's callbacks took part, which are not in this file.")
    if run.output.resolve() in [source.resolve() for source in run.model.sources]:
        comments.append("But it replaced the model that it began with: put that back first.")
    return format_recipe(settings, leave_out=("resume", "memory"), comments=comments)


def save_recipe(run: Run) -> None:
    """Writes run.toml. Data in memory has no name: then there is none, not even that of an earlier run."""
    path = companion_folder(run.output) / RECIPE
    if run.call.task:
        path.unlink(missing_ok=True)
    else:
        write_text(path, make_recipe(run))


def save(run: Run, trainer: "Trainer", history: History, best: Validation | None) -> None:
    """Writes the state, the last weights, and the loss curve; one process of several does.

    best: of the weights in the output. Until there are any, the output has the last ones, too.
    """
    if not run.is_writing:
        return
    from gpt_tf2.training.curve import draw_curve  # imports matplotlib, which the first step need not wait for

    if not best:
        run.about_best.unlink(missing_ok=True)  # an earlier run's
    save_state(run.state, trainer, history, run.identity)
    save_recipe(run)
    save_weights(run, trainer, run.last)
    if run.held_out and not best:
        save_weights(run, trainer, run.output)
    draw_curve(run.output.with_suffix(".png"), history, best, run.output.stem)


def save_best(run: Run, trainer: "Trainer", history: History, best: Validation, is_first: bool) -> None:
    """Writes the weights as the best ones, and which ones they are; one process of several does.

    The first ones come with the state of their run: if it is killed, a state of an earlier run must not meet them. A
    run that is killed between the two writes has no best weights until its next validation.
    """
    if not run.is_writing:
        return
    run.about_best.unlink(missing_ok=True)
    if is_first:
        save_state(run.state, trainer, history, run.identity)
    save_weights(run, trainer, run.output)
    write_best(run.about_best, best)


def save_weights(run: Run, trainer: "Trainer", path: Path) -> None:
    """Writes the model, or its adapters, with the vocabulary and the chat template."""
    if run.settings.lora_rank:
        base = adapters.Base(run.model.path, run.digests, run.model.tokenizer.digest)
        write = peft.write if path.name == peft.FILE else adapters.write
        write(path, run.model.config, base, trainer.trained, run.settings.lora_alpha)
        save_vocabulary(run.model.tokenizer, path)
    else:
        save_model(trainer.model, path, run.model.tokenizer, run.model.settings_for(path))
    save_chat_template(run.chat_template, run.model.tokenizer, path, path in run.replaced)
