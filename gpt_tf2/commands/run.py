"""A fine-tuning run with nothing left to decide, and the decisions: model, data, memory and learning rate."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_tf2.backend.compiling import uses_xla
from gpt_tf2.backend.hardware import has_fast_bfloat16
from gpt_tf2.backend.memory import measure_device_memory, measure_free_memory
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.added_tokens import add_tokens
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.formats import try_to_locate
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.find_model import find_model_and_base, find_model_path, find_on_machine
from gpt_tf2.commands.find_task import choose_template, find_task_of
from gpt_tf2.commands.finetune_settings import LENGTH, FinetuneSettings, identify_run, list_trained
from gpt_tf2.commands.flags import join_items
from gpt_tf2.commands.from_scratch import open_random_model
from gpt_tf2.commands.measured_plan import measure_plan
from gpt_tf2.commands.progress import Counter
from gpt_tf2.commands.recipes import LAST
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.data.batches import Batches
from gpt_tf2.data.dataset import Source, TrainingData, open_training_data
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import check_writable
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.task import Task
from gpt_tf2.training.loggers.logger import LoggedRun
from gpt_tf2.training.loggers.opening import check_installed
from gpt_tf2.training.memory import MemoryPlan, choose_plan, predict_total
from gpt_tf2.training.schedule import choose_rate
from gpt_tf2.training.state import VOCABULARY, WEIGHTS, check_run, read_run

if TYPE_CHECKING:
    from gpt_tf2.training.devices import Devices

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

    @property
    def is_in_memory(self) -> bool:
        """Whether nothing is kept beside the data."""
        return self.task is not None or not self.is_written


COMMAND_LINE = Call()


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with nothing left to decide.

    settings: without "auto".
    model: to start from. trained: the tensors to train, name to shape.
    output: the file to write; with held-out data of the best weights, and the last ones go to `last`.
    replaced: which of the two had a checkpoint when the run began. None of a resumed run, which has replaced them.
    state: where the run is saved for `resume`. saved: the identity of the save to resume.
    identity: what a resumed run must have in common with the saved one.
    digests: of the weights to start from, by tensor, once they are read.
    device: what it runs on, for people.
    step_bytes: the memory that a step takes.
    chat_template: to keep with the model, if it has learned chats.
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
    replaced: tuple[Path, ...]
    state: Path
    saved: dict[str, Any] | None
    identity: dict[str, Any]
    device: str
    devices: "Devices"
    step_bytes: float
    chat_template: ChatTemplate | None
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

    def logged(self, done: int) -> LoggedRun:
        """Its name, settings and folder, for loggers. done: the steps of the run that it resumes."""
        settings = {
            name: join_items(value)
            for name, value in dataclasses.asdict(self.settings).items()
            if value is not None and name not in ("resume", "memory")
        }
        folder = companion_folder(self.output) / "logs" if self.call.is_written else None
        return LoggedRun(companion_folder(self.output).resolve().name, settings, folder, self.saved is not None, done)

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
        return folder.with_name(f"{folder.name}{LAST}") / output.name
    return output.with_name(f"{output.stem}{LAST}{output.suffix}")


def resolve(settings: FinetuneSettings, call: Call = COMMAND_LINE) -> Run:
    """Finds the task, the model and the data, starts the backend, and decides everything that is "auto"."""
    output = settings.output_path()  # before hours of preparing: checks the format
    check_installed(settings.loggers())
    if settings.objective == "dpo":
        settings = dataclasses.replace(settings, task="preferences")
    task = call.task or find_task_of(settings)
    if task.running_text and settings.loss_on == "completion":
        raise InputError("running text has no prompts and is learned whole: leave it out", "loss_on", "completion")
    if task.running_text and settings.too_long == "skip":
        raise InputError("running text has no examples: leave it out", "too_long", "skip")
    if settings.val_split and settings.val_split not in task.splits[1:]:
        others = f"has {', '.join(task.splits[1:])}: use one" if task.splits[1:] else "has no other: use `val_fraction`"
        raise InputError(f"{task.name} {others}", "val_split", settings.val_split)
    if not settings.validates:
        for name in ("patience", "validate_every"):
            if getattr(settings, name):
                raise InputError(
                    "needs data to validate on: give `val_fraction` or `val_split`", name, getattr(settings, name)
                )
    model = open_base(settings)
    task, template = choose_template(task, settings.chat_template, model.chat_template)
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
    data = open_split(settings, call, task, model, task.splits[0], settings.val_fraction)
    if settings.val_split:
        data = data.validate_on(open_split(settings, call, task, model, settings.val_split), settings.val_split)
    model = model.read_ahead()  # beside the import that follows
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
    of_chats = template if data.has_chats else None
    run = Run(
        settings=settings,
        task=task,
        model=model,
        data=data,
        trained=list_trained(settings, model.config),
        output=output,
        replaced=() if saved else tuple(p for p in (output, place_last(output)) if try_to_locate(str(p))),
        state=state,
        saved=saved,
        identity=identify_run(settings, model.config, model.tokenizer.digest, of_chats, key, data.is_shortened),
        device=device,
        devices=devices,
        step_bytes=step_bytes,
        chat_template=of_chats or model.chat_template,
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
    return run


def open_split(
    settings: FinetuneSettings, call: Call, task: Task, model: OpenedModel, split: str, val_fraction: float = 0.0
) -> TrainingData:
    """The data of a split, prepared now unless it is kept."""
    source = Source(task, settings.data, model.tokenizer, settings.cache, call.is_in_memory, split)
    unit = "parts" if task.running_text else "examples"
    with Counter(f"preparing {split}", unit, shown=call.is_shown) as counter:
        completion_only = settings.loss_on == "completion"
        assert settings.length  # `resolve` has set it
        shortens, beta = settings.too_long == "shorten", settings.beta()
        return open_training_data(source, settings.length, val_fraction, completion_only, counter, shortens, beta)


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
    if settings.add_tokens:
        model = add_tokens(model, settings.add_tokens)
    model.checkpoint.check(model.config)  # now, not after hours of preparing data
    return model


def check_replaced(settings: FinetuneSettings, model: OpenedModel) -> None:
    """Raises InputError if adapters would replace the model that they belong to, or the state of its run."""
    output, setting = settings.output_path(), settings.output_setting()
    written = {output.resolve(), *([place_last(output).resolve()] if settings.validates else [])}
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
        ways["int8"] = saved.get("--base_precision") == "int8"
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
    prefers = settings.objective == "dpo"
    lr = choose_rate(parameters, settings.optimizer, settings.lora_rank > 0, settings.from_scratch, prefers)
    return dataclasses.replace(settings, lr=lr)
