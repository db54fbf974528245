"""The commands as Python functions, with settings as keywords."""

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpt_tf2.commands.evaluate import EvaluateSettings, run_evaluate
from gpt_tf2.commands.finetune import finetune as finetune_as
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.flags import make_settings
from gpt_tf2.commands.run import Call
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.data_files import list_files
from gpt_tf2.tasks.in_memory import PLACE, make_task_in_memory
from gpt_tf2.tasks.task import Scores

if TYPE_CHECKING:
    import keras

    from gpt_tf2.model import GPT2

Function = TypeVar("Function", bound=Callable)
OF_FILES = ("task", "val_split", "encoding", "column", "highlights", "cache")  # settings that say how files are read
# Callbacks that change Keras's optimizer or keep its state → what to use instead.
ONLY_FIT = {
    "ReduceLROnPlateau": "set `lr_schedule`",
    "LearningRateScheduler": "set `lr_schedule`",
    "BackupAndRestore": "give `output`, and `resume` to continue",
}


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` returns.

    model: the network with its last weights and adapters.
    history: for each epoch the mean `loss`, the learning rate at its end, `lr`, and the `val_loss` if data is held out.
    path: of the fine-tuned model, which has the best weights if data is held out: `load_model(result.path)` loads them.
        None without `output`.
    """

    model: "GPT2"
    history: dict[str, list[float]]
    path: Path | None


def lists_settings(settings: type) -> Callable[[Function], Function]:
    """Gives a function of `**settings` the signature that lists them, for `help` and notebooks. Decorator.

    settings: their dataclass.
    """

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        keyword = inspect.Parameter.KEYWORD_ONLY
        fields = {
            field.name: inspect.Parameter(
                field.name,
                keyword,
                default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
                annotation=field.type,
            )
            for field in dataclasses.fields(settings)
        }
        named = [
            parameter.replace(default=fields[name].default) if name in fields else parameter
            for name, parameter in own.parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        rest = [parameter for name, parameter in fields.items() if name not in own.parameters]
        function.__signature__ = own.replace(parameters=[*named, *rest])  # type: ignore[attr-defined]
        return function

    return decorate


@lists_settings(FinetuneSettings)
def finetune(
    data: Any = None,
    *,
    model: str | os.PathLike | None = None,
    callbacks: "keras.callbacks.Callback | Iterable[keras.callbacks.Callback] | None" = None,
    verbose: int | bool = 1,
    **settings: Any,
) -> FinetuneResult:
    """Fine-tunes a model.

    Args:
        data: what to train on. A `str` or a path names files. Data in memory is an iterable, read once, or a
            `tf.data.Dataset`: texts, (prompt, completion) pairs, dictionaries as in the task `jsonl`, or int arrays of
            token ids.
        model: a released size, such as 124M, a path, or `hf://owner/name`.
        callbacks: of Keras. They are called as `fit` calls them, with `loss`, `val_loss` and `lr`. A resumed run calls
            them as a new one does: they have not seen the earlier epochs.
        verbose: 0 prints nothing but warnings and the progress of a download, on stderr.
        settings: the flags of `gpt-tf2 finetune`, by name. Without `output` nothing is written.

    Raises InputError if a setting, a file or the data is bad, or if training diverges.

    Example:
        >>> result = finetune(["Once upon a time …"], model="124M", length=64, steps=10, epochs=1)  # doctest: +SKIP
        >>> result.history  # doctest: +SKIP
        {'loss': [3.2], 'lr': [0.0001]}
    """
    is_path = data is None or isinstance(data, str | os.PathLike)
    given = drop_missing(data=data if is_path else PLACE, model=model) | settings
    resolved = make_settings(FinetuneSettings, given)
    is_written = bool(resolved.output or resolved.output_name)
    if resolved.resume and not is_written:
        raise InputError("needs the `output` to continue: give it", "resume", True)
    called = list_callbacks(callbacks)
    if is_path:
        check_path(resolved.data)
        task = None
    else:
        check_in_memory(resolved)
        task = make_task_in_memory(data, resolved.literal_specials, prefers=resolved.objective == "dpo")
    call = Call(task, called, bool(verbose), is_written)
    run, trainer, history = finetune_as(resolved, call)
    from gpt_tf2.training.callbacks import summarize_epochs

    epochs = summarize_epochs(history, run.settings.schedule(), run.settings.steps)
    return FinetuneResult(trainer.model, epochs, run.output if is_written else None)


@lists_settings(EvaluateSettings)
def evaluate(
    data: str | os.PathLike | None = None,
    *,
    model: str | os.PathLike | None = None,
    verbose: int | bool = 1,
    **settings: Any,
) -> Scores:
    """Scores a model on a task, or measures its perplexity on a text.

    Args:
        data: a path.
        model: a released size, such as 124M, a path, or `hf://owner/name`.
        verbose: 0 prints nothing but warnings and the progress of a download, on stderr.
        settings: the flags of `gpt-tf2 evaluate`, by name. Without `output` nothing is written, and an interrupted
            evaluation does not resume.

    Returns:
        Tables of figures: table, row, column → figure.

    Raises InputError if a setting or a file is bad.

    Example:
        >>> evaluate("held_out.txt", model="124M")["text"]["held_out.txt"]["perplexity per token"]  # doctest: +SKIP
        21.3
    """
    resolved = make_settings(EvaluateSettings, drop_missing(data=data, model=model) | settings)
    return run_evaluate(resolved, is_written=resolved.output is not None, is_shown=bool(verbose))


def list_callbacks(callbacks: Any) -> list[Any]:
    """The callbacks. Raises InputError for one that is not Keras's, or that needs Keras's own `fit`."""
    called = [callbacks] if hasattr(callbacks, "set_model") else list(callbacks or ())
    for callback in called:
        kinds = [kind.__name__ for kind in type(callback).__mro__]
        if not hasattr(callback, "set_model"):
            raise InputError(f"`callbacks` has a {kinds[0]} in it: give those of keras.callbacks")
        for kind in kinds:
            if kind in ONLY_FIT:
                raise InputError(f"`callbacks` has a {kind} in it, which needs Keras's own fit: {ONLY_FIT[kind]}")
    return called


def drop_missing(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def check_path(path: str) -> None:
    """Raises InputError if no file has the path."""
    with contextlib.suppress(OSError, ValueError):  # a text may be no path at all
        if next(list_files(path), None) is not None:
            return
    raise InputError("no such file: give a path, or [text] to train on a text itself", "data", path)


def check_in_memory(settings: FinetuneSettings) -> None:
    """Raises InputError for a setting that does not apply to data in memory."""
    for field in dataclasses.fields(settings):
        if field.name in OF_FILES and getattr(settings, field.name) != field.default:
            message = "does not apply to data in memory: leave it out"
            raise InputError(message, field.name, getattr(settings, field.name))
