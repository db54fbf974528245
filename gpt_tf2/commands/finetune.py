"""`finetune`: resolve the settings, build the trainer, train, save."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_tf2.backend.compiling import run_eagerly, uses_xla
from gpt_tf2.backend.hardware import has_fast_bfloat16
from gpt_tf2.backend.memory import measure_device_memory, measure_free_memory
from gpt_tf2.backend.starting import is_first_process, leave_processes, start_backend
from gpt_tf2.backend.workers import Workers
from gpt_tf2.checkpoints import adapters, peft
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.opened import OpenedModel, open_model, save_model, save_vocabulary
from gpt_tf2.commands.data_settings import find_task_of
from gpt_tf2.commands.find_model import find_model_and_base, find_model_path, find_on_machine, is_there
from gpt_tf2.commands.finetune_settings import LENGTH, FinetuneSettings, identify_run, list_trained
from gpt_tf2.commands.flags import format_flags
from gpt_tf2.commands.from_scratch import open_random_model
from gpt_tf2.commands.measured_plan import measure_plan
from gpt_tf2.commands.progress import Counter, TrainingDisplay
from gpt_tf2.commands.recipes import format_recipe
from gpt_tf2.commands.version import describe_version
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.data.batches import Batches
from gpt_tf2.data.dataset import Source, TrainingData, open_training_data
from gpt_tf2.data.held_out import write_held_out
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import check_writable, write_text
from gpt_tf2.storage.locks import write_alone
from gpt_tf2.tasks.data_files import is_stream
from gpt_tf2.tasks.task import Task
from gpt_tf2.training.best import BestWeights, Validation, read_best, write_best
from gpt_tf2.training.memory import MemoryPlan, choose_plan, predict_total
from gpt_tf2.training.schedule import choose_rate
from gpt_tf2.training.state import VOCABULARY, WEIGHTS, History, check_run, load_state, read_run, save_state

if TYPE_CHECKING:
    from gpt_tf2.training.devices import Devices
    from gpt_tf2.training.trainer import Trainer

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Call:
    """What a run has besides its settings if a program calls it. The defaults are the command line's.

    task: of data in memory; by default the settings name the task and the data.
    callbacks: of Keras.
    is_shown: whether anything is printed.
    is_written: whether the model and all that goes with it are written.
    """

    task: Task | None = None
    callbacks: Any = ()
    is_shown: bool = True
    is_written: bool = True


COMMAND_LINE = Call()


def run_finetune(settings: FinetuneSettings) -> Path:
    """Fine-tunes a model and writes it to `output/`, with its loss curve `NAME.png` and its folder `NAME/` beside it.

    The folder holds the vocabulary, TensorBoard's logs (`logs/`) and `state.h5`, from which `resume` continues. If data
    is held out, the model has the weights with the lowest validation loss, and `NAME-last` beside it the last ones.

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
        run, trainer, history = build(resolve(settings, call))
        train(run, trainer, history)
    return run, trainer, history


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with nothing left to decide.

    settings: without "auto".
    model: to start from. trained: the tensors to train, name to shape.
    output: the file to write; with held-out data of the best weights, and the last ones go to `last`.
    state: where the run is saved for `resume`. saved: the identity of the save to resume.
    identity: what a resumed run must have in common with the saved one.
    digests: of the weights to start from, by tensor, once they are read.
    device: what it runs on, for people.
    step_bytes: the memory that a step takes.
    call: what is not in the settings.
    """

    settings: FinetuneSettings
    task: Task
    model: OpenedModel
    data: TrainingData
    training: Batches
    held_out: Batches | None
    trained: Shapes
    output: Path
    state: Path
    saved: dict[str, Any] | None
    identity: dict[str, Any]
    device: str
    devices: "Devices"
    step_bytes: float
    call: Call = COMMAND_LINE
    digests: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def last(self) -> Path:
        """The file of the last weights."""
        return place_last(self.output) if self.held_out else self.output

    @property
    def about_best(self) -> Path:
        """The file that says which weights are the best."""
        return companion_folder(self.output) / "best.json"

    @property
    def is_writing(self) -> bool:
        """Whether this process writes files."""
        return self.call.is_written and self.devices.is_main

    def sources(self) -> dict[str, Path]:
        """The files to name if weights or vocabulary are not those that the run began with."""
        return {WEIGHTS: self.model.path, VOCABULARY: self.model.tokenizer.files[0]}

    def count_parameters(self) -> tuple[int, int]:
        """The parameters of the model, and those that are trained."""
        model, trained = (sum(map(math.prod, s.values())) for s in (tensor_shapes(self.model.config), self.trained))
        return model, trained


def place_last(output: Path) -> Path:
    """Where the last weights of a run lie whose best ones lie at `output`.

    Example:
        >>> place_last(Path("output/book.h5")).as_posix(), place_last(Path("book/model.safetensors")).as_posix()
        ('output/book-last.h5', 'book-last/model.safetensors')
    """
    folder = output.parent
    if companion_folder(output) == folder and folder.name not in ("", ".."):
        return folder.with_name(f"{folder.name}-last") / output.name
    return output.with_name(f"{output.stem}-last{output.suffix}")


def resolve(settings: FinetuneSettings, call: Call = COMMAND_LINE) -> Run:
    """Finds the task, the model and the data, starts the backend, and decides everything that is "auto"."""
    output = settings.output_path()  # before hours of preparing: checks the format
    task = call.task or find_task_of(settings)
    if task.running_text and settings.loss_on == "completion":
        raise InputError("running text has no prompts and is learned whole: leave it out", "loss_on", "completion")
    if not settings.val_fraction:
        for name in ("patience", "validate_every"):
            if getattr(settings, name):
                raise InputError("needs data to validate on: give `val_fraction`", name, getattr(settings, name))
    model = open_base(settings)
    length = settings.length or min(LENGTH, model.config.n_ctx)
    if length > model.config.n_ctx:
        raise InputError(f"is above n_ctx {model.config.n_ctx} of {model.path}: lower it", "length", length)
    settings = dataclasses.replace(settings, length=length)
    if call.is_written and settings.lora_rank:
        check_replaced(settings, model)
    state = companion_folder(output) / "state.h5"
    saved = read_run(state) if settings.resume and state.is_file() else None
    if saved is not None:  # now, because preparing the data takes long
        check_run(state, {VOCABULARY: model.tokenizer.digest}, saved, {VOCABULARY: model.tokenizer.files[0]})
    settings = dataclasses.replace(settings, loss_on=settings.loss_on or task.loss_on)
    in_memory = call.task is not None or not call.is_written
    source = Source(task, settings.data, model.tokenizer, settings.cache, in_memory)
    unit = "parts" if task.running_text else "examples"
    with Counter(f"preparing {task.splits[0]}", unit, shown=call.is_shown) as counter:
        completion_only = settings.loss_on == "completion"
        data = open_training_data(source, length, settings.val_fraction, completion_only, counter)
    device = start_backend(lean=is_memory_short(settings, model.config))
    from gpt_tf2.training.devices import find_devices

    devices = find_devices(settings.devices, settings.shard)
    devices.check_split(tensor_shapes(model.config).values())
    training, held_out = data.make_batches(uses_xla())
    settings, step_bytes = without_auto(settings, model.config, saved, training, devices)
    settings = with_learning_rate(settings, model.config, saved)
    output = settings.output_path()
    key = data.key
    if saved and data.former_key and str(saved.get("the text of --dataset_path")).endswith(data.former_key):
        key = saved["the text of --dataset_path"]
    run = Run(
        settings=settings,
        task=task,
        model=model,
        data=data,
        trained=list_trained(settings, model.config),
        output=output,
        state=state,
        saved=saved,
        identity=identify_run(settings, model.config, model.tokenizer.digest, key),
        device=device,
        devices=devices,
        step_bytes=step_bytes,
        call=call,
        training=training,
        held_out=held_out,
    )
    parameters, learning = run.count_parameters()
    # The state holds what is trained with the optimizer's two moments of it; then there is the model, best and last.
    models = 2 if held_out else 1
    size = 4 * (3 * learning + models * (learning if settings.lora_rank else parameters))
    if call.is_written:
        check_writable(companion_folder(output), size, "choose another `output`, or fix the permissions")
    make_recipe(run)  # now, not after hours of training: it may not hold a path
    return run


def open_base(settings: FinetuneSettings) -> OpenedModel:
    """The model to start from, with its weights checked."""
    if settings.from_scratch:
        return open_random_model(settings)
    if settings.model_ckpt:  # which the files beside the model may belong to: it is never downloaded for them
        path = find_on_machine(settings.model) or Path(settings.model)
        base = find_model_path(settings.base, settings.offline) if settings.base else None
    else:
        path, base = find_model_and_base(settings.model, settings.base, settings.offline)
    files = settings.json_hparams, settings.json_encoder, settings.vocab_bpe
    model = open_model(settings.model_ckpt or path, *files, fallback=path, base=base)
    model.checkpoint.check(model.config)  # now, not after hours of preparing data
    return model


def check_replaced(settings: FinetuneSettings, model: OpenedModel) -> None:
    """Raises InputError if adapters would replace the model that they belong to, or the state of its run."""
    output, setting = settings.output_path(), settings.output_setting()
    written = {output.resolve(), *([place_last(output).resolve()] if settings.val_fraction else [])}
    if written & {source.resolve() for source in model.sources}:
        message = "the adapters would replace the model that they belong to: choose another name"
        raise InputError(message, setting, output.name)
    if companion_folder(output).resolve() == companion_folder(model.path).resolve():
        message = f"the adapters would share a folder with {model.path}: choose another name"
        raise InputError(message, setting, getattr(settings, setting))


def is_memory_short(settings: FinetuneSettings, config: GPT2Config) -> bool:
    """Whether a CPU will need activation checkpointing; asked before the backend starts."""
    memory = settings.memory_limit() or measure_free_memory()
    short = memory is not None and predict_total(config, settings.memory_plan("bfloat16")) > memory
    return settings.remat == "on" or (settings.remat == "auto" and short)


def without_auto(
    settings: FinetuneSettings,
    config: GPT2Config,
    saved: dict[str, Any] | None,
    training: Batches,
    devices: "Devices",
) -> tuple[FinetuneSettings, float]:
    """The settings with what the device and its memory decide, and the bytes that a step takes.

    Args:
        saved: the identity of the run to resume, which decides what would else be chosen.

    Raises InputError if the run does not fit into the memory.
    """
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16() else "float32"
    asked, remat = settings.memory_plan(precision), settings.remat
    if remat == "auto" and saved:
        remat = saved.get("--remat", "auto")
    chooses = settings.memory is not None
    if chooses and saved:
        ways = {field: saved.get(f"--{field}", getattr(asked, field)) for field in ("optimizer", "lora_rank")}
        asked, chooses = dataclasses.replace(asked, **ways), False
    memory = settings.memory_limit() or measure_device_memory()
    limit = math.inf if memory is None else memory

    @functools.cache
    def measure(plan: MemoryPlan) -> float:
        return sum(measure_plan(settings, config, training, devices, limit, plan).values())

    if memory is None:
        chosen = dataclasses.replace(asked, remat=remat == "on")
    else:
        chosen = choose_plan(measure, asked, memory, remat, flexible=chooses)
    return settings.with_plan(chosen), measure(chosen)


def with_learning_rate(
    settings: FinetuneSettings, config: GPT2Config, saved: dict[str, Any] | None
) -> FinetuneSettings:
    """The settings with a learning rate: the given one, that of the run to resume, or one that suits the model."""
    if settings.lr is not None:
        return settings
    if saved and "--base_lr" in saved:
        return dataclasses.replace(settings, lr=saved["--base_lr"])
    parameters = sum(map(math.prod, tensor_shapes(config).values()))
    lr = choose_rate(parameters, settings.optimizer, settings.lora_rank > 0, settings.from_scratch)
    return dataclasses.replace(settings, lr=lr)


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

        network = run.model.load(settings.dropout, settings.precision, settings.held(), run.devices.place, note)
    run = dataclasses.replace(run, digests=digests, identity=run.identity | {WEIGHTS: first_weights(run, digests)})
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
    from gpt_tf2.generation.samples import sample_text
    from gpt_tf2.generation.sampling import make_sampler
    from gpt_tf2.training.callbacks import Callbacks
    from gpt_tf2.training.loop import TrainingPlan, train
    from gpt_tf2.training.monitor import Monitor

    settings, model, data = run.settings, run.model, run.data
    steps = settings.epochs * settings.steps
    decoder = GraphDecoder(trainer.model, run.device)

    def sample() -> str:
        decoder.model = trainer.model  # with its current weights, which a compiled step may still hold elsewhere
        text = sample_text(decoder, model.tokenizer, data.prompt, 100, make_sampler(top_k=40), settings.seed)
        text = text.split(run.task.stop)[0] if run.task.stop else text
        return f"sample: {model.tokenizer.decode(data.prompt)[-200:]}{text}"

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
        Monitor(steps, companion_folder(run.output) / "logs", display, run.is_writing) as monitor,
    ):
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


def make_recipe(run: Run) -> str:
    """The text of run.toml, with which the run can be repeated. Raises InputError if it cannot hold a path."""
    output = str(run.output)
    settings = dataclasses.replace(run.settings, output=output if "/" in output else f"./{output}", output_name=None)
    path = companion_folder(run.output) / "run.toml"
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
    path = companion_folder(run.output) / "run.toml"
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
    """Writes the model, or its adapters, with the vocabulary."""
    if run.settings.lora_rank:
        base = adapters.Base(run.model.path, run.digests, run.model.tokenizer.digest)
        write = peft.write if path.name == peft.FILE else adapters.write
        write(path, run.model.config, base, trainer.trained, run.settings.lora_alpha)
        save_vocabulary(run.model.tokenizer, path)
    else:
        save_model(trainer.model, path, run.model.tokenizer)
