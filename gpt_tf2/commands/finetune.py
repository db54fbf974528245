"""`finetune`: build the trainer of a run, train, and tell."""

import contextlib
import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.backend.compiling import run_eagerly
from gpt_tf2.backend.starting import is_first_process, leave_processes
from gpt_tf2.backend.workers import Workers
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.commands.find_model import is_there
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.flags import format_flags
from gpt_tf2.commands.progress import Counter, TrainingDisplay
from gpt_tf2.commands.reference import with_reference
from gpt_tf2.commands.run import COMMAND_LINE, Call, Run, resolve
from gpt_tf2.commands.run_files import make_recipe, save, save_best
from gpt_tf2.commands.template_notes import note_markers, note_unread
from gpt_tf2.data.held_out import write_held_out
from gpt_tf2.errors import InputError
from gpt_tf2.storage.locks import write_alone
from gpt_tf2.training.best import BestWeights, Validation, read_best
from gpt_tf2.training.state import WEIGHTS, History, load_state

if TYPE_CHECKING:
    from gpt_tf2.training.trainer import Trainer


def run_finetune(settings: FinetuneSettings) -> Path:
    """Fine-tunes a model and writes it to `output/`, with its loss curve `NAME.png` and its folder `NAME/` beside it.

    The folder holds the vocabulary, TensorBoard logs (`logs/`), `history.jsonl` for `watch`, and `state.h5`, from which
    `resume` continues. If data is held out, the model has the weights with the lowest validation loss, and `NAME-last`
    beside it the last ones.

    Returns:
        The path of the fine-tuned model, for `load_model`.

    Raises InputError if a setting or a file is bad, the output cannot be written or another process writes it, or if
    training diverges.

    Example:
        >>> run_finetune(FinetuneSettings(data="book.txt", lr=1e-4))  # doctest: +SKIP
        PosixPath('output/book_124M.h5')
    """
    run, _, _ = finetune(settings)
    return run.output


def finetune(settings: FinetuneSettings, call: Call = COMMAND_LINE) -> "tuple[Run, Trainer, History]":
    """Fine-tunes a model as `call` asks; see `run_finetune`."""
    output = settings.output_path()
    alone = write_alone(output, settings.output_setting(), locked=companion_folder(output))
    with alone if call.is_written and is_first_process() else contextlib.nullcontext():
        run = resolve(settings, call)
        make_recipe(run)  # now, not after hours of training: it may not hold a path
        if not settings.lora_rank:
            run.model.settings_for(run.output)  # now as well: their file may be damaged
        run, trainer, history = build(run)
        train(run, trainer, history)
    return run, trainer, history


def build(run: Run) -> "tuple[Run, Trainer, History]":
    """Loads the model, with adapters if they are trained, and the saved state if the run resumes.

    Returns the run with the digests of the weights that were read.
    """
    from gpt_tf2.training.lora import add_adapters
    from gpt_tf2.training.optimizers import make_optimizer
    from gpt_tf2.training.trainer import make_trainer

    settings = run.settings
    digests: dict[str, str] = {}
    label = "making random weights" if settings.from_scratch else "reading the model"
    with Counter(label, "tensors", shown=run.call.is_shown and run.devices.is_main) as counter:

        def note(name: str, digest: str) -> None:
            digests[name] = digest
            counter.show(len(digests), len(run.model.checkpoint.shapes))

        network = run.model.load(
            settings.dropout,
            settings.precision,
            settings.held(),
            run.devices.place,
            note,
            int8=settings.base_precision == "int8",
        )
    run = dataclasses.replace(run, digests=digests, identity=run.identity | {WEIGHTS: first_weights(run, digests)})
    if settings.objective == "dpo":
        run = with_reference(run, network)
    if settings.lora_rank:
        add_adapters(network, run.trained, settings.seed, settings.lora_alpha)
    trainer = make_trainer(
        network,
        make_optimizer(settings.optimizer, settings.weight_decay),
        run.trained,
        settings.remat == "on",
        settings.accumulate,
        settings.clip_norm,
        devices=run.devices,
    )
    history = load_state(run.state, trainer, run.identity, run.sources()) if run.saved is not None else History()
    check_agreement(run, history)
    return run, trainer, history


def check_agreement(run: Run, history: History) -> None:
    """Raises InputError unless all processes of the run train the same from the same step."""
    import keras

    if keras.backend.backend() != "jax":
        return
    import jax

    identity = hashlib.sha256(json.dumps(run.identity, sort_keys=True).encode()).hexdigest()
    workers = Workers(processes=jax.process_count(), number=jax.process_index())
    offers = workers.exchange([identity, len(history.losses)])
    if any(offer != offers[0] for offer in offers):
        difference = "saves" if len({steps for _, steps in offers}) > 1 else "settings, models or data"
        leave_processes()
        raise InputError(
            f"the processes of this run have different {difference}: give all the same, in a shared folder"
        )


def first_weights(run: Run, digests: dict[str, str]) -> dict[str, str]:
    """The digests of the weights that a run began with, by those that it has read.

    A run that writes to the model it began with finds there what it has trained itself: the save says what was there.
    """
    saved = run.saved.get(WEIGHTS) if run.saved else None
    if not isinstance(saved, dict) or run.model.path.resolve() not in (run.output.resolve(), run.last.resolve()):
        return digests
    return digests | {name: saved[name] for name in run.trained if name in saved}


def train(run: Run, trainer: "Trainer", history: History) -> None:
    """Trains to the end of the run, or until it is told to stop; shows progress, saves and samples on the way."""
    from gpt_tf2.decoding.keras_graph import GraphDecoder
    from gpt_tf2.training.callbacks import Callbacks
    from gpt_tf2.training.loggers.history_file import HISTORY
    from gpt_tf2.training.loop import TrainingPlan, train
    from gpt_tf2.training.monitor import Monitor

    settings, model, data = run.settings, run.model, run.data
    steps = settings.epochs * settings.steps
    decoder = GraphDecoder(trainer.model, run.device, model.tokenizer.undrawn(model.config.n_vocab))

    def sample() -> str:
        from gpt_tf2.generation.samples import sample_text  # here, as its kernels take a moment to import
        from gpt_tf2.generation.sampling import make_sampler

        decoder.model = trainer.model  # with its current weights, which a compiled step may still hold elsewhere
        text = sample_text(decoder, model.tokenizer, data.prompt, 100, make_sampler(top_k=40), settings.seed)
        text = text.split(run.task.stop)[0] if run.task.stop else text
        return f"{model.tokenizer.decode(data.prompt)[-200:]}{text}"

    plan = TrainingPlan(
        steps,
        settings.batch_size,
        settings.seed,
        settings.steps,
        settings.validate_every or settings.steps,
        settings.patience,
        settings.sample_every if run.call.is_shown else 0,
        settings.save_every,
    )
    schedule = settings.schedule()
    callbacks = Callbacks(run.call.callbacks, trainer, history, schedule, settings.steps, settings.epochs)
    is_kept = run.held_out and run.saved is not None and is_there(run.output)
    kept = read_best(run.about_best) if is_kept else None
    best = BestWeights(kept, lambda found: save_best(run, trainer, history, found, is_first=best.kept is None))
    if run.held_out and run.is_writing:
        for path in (run.output, run.last):
            write_held_out(companion_folder(path), run.held_out)
    with (
        TrainingDisplay(steps, len(history.losses), run.call.is_shown and run.devices.is_main) as display,
        Monitor(steps, display) as monitor,
    ):
        if run.devices.is_main:
            monitor.open_logs(settings.loggers(), run.logged(len(history.losses)))
        if run.is_writing:
            monitor.keep_history(companion_folder(run.output) / HISTORY, run.logged(len(history.losses)))
        for line in describe(run, history):
            display.say(line)
        with run_eagerly() if settings.eager else contextlib.nullcontext(), run.devices.report_lost_process():
            finished = train(
                trainer,
                schedule,
                run.training,
                run.held_out,
                plan,
                history,
                monitor,
                callbacks,
                best,
                lambda: save(run, trainer, history, best.kept),
                sample,
            )
        for line in report(run, history, best.kept, finished):
            display.say(line)


def describe(run: Run, history: History) -> list[str]:
    """Lines on the run before its first step."""
    parameters, learning = run.count_parameters()
    plan = run.settings.memory_plan(run.settings.precision)
    gigabytes = run.step_bytes / 1e9
    start = f"{'random weights, vocabulary of ' if run.settings.from_scratch else ''}{run.model.path}"
    lines = [
        f"{start}: {parameters:,} parameters, {run.settings.precision}, {run.device}{run.devices.describe()}",
        f"training {learning:,} parameters ({format_flags(plan.settings())} --lr {run.settings.lr:g}), "
        f"about {gigabytes:.1f} GB",
        *run.data.report,
        *filter(None, [run.model.remark]),
        *describe_template(run),
    ]
    steps = run.settings.epochs * run.settings.steps
    if run.settings.resume and run.saved is None:
        lines.append(f"{run.state}: no save to resume, starting from the beginning")
    elif run.settings.resume:
        complete = f", all {steps:,} steps are done: raise --epochs to go on" if len(history.losses) >= steps else ""
        lines.append(f"{run.state}: resuming after step {len(history.losses)}{complete}")
    elif run.is_writing and run.state.is_file():
        lines.append(f"{run.output}: replacing the result of an earlier run, which --resume would have continued")
    return lines


def describe_template(run: Run) -> list[str]:
    """A line if the chat template is not the base's own, or one whose markers are no tokens."""
    if not run.data.has_chats or not run.chat_template:
        return []
    if run.settings.chat_template:
        return note_markers(run.chat_template, run.model.tokenizer)
    return [f"{line} (--chat_template FILE trains with another)" for line in note_unread(run.model, "training")]


def report(run: Run, history: History, best: Validation | None, finished: bool) -> list[str]:
    """Lines on the run after its last step."""
    settings, done, lines = run.settings, len(history.losses), []
    if finished and done < settings.epochs * settings.steps:
        lines.append(f"stopped early: no lower validation loss in the last {settings.patience} validations")
    if best and (first := dict(history.validation).get(0, math.inf)) <= best[1]:
        lines.append(f"training has not helped: the validation loss was {first:.4f} before it: lower --lr")
    if not run.call.is_written:
        return lines
    end = "" if finished else f" after step {done}; continue with --resume"
    if run.held_out:
        of_best = f", the best weights: step {best[0]}, validation loss {best[1]:.4f}" if best else ", the last weights"
        lines.append(f"saved {run.output}{of_best}")
        lines.append(f"saved {run.last}, the last weights{end or f': step {done}'}")
    else:
        lines.append(f"saved {run.output}{end}")
    return [*lines, f"saved the loss curve, {run.output.with_suffix('.png')}"]
