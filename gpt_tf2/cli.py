"""The command line: arguments in, exit code out."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from gpt_tf2.commands.flags import suggest
from gpt_tf2.commands.parsing import find_typed, parse
from gpt_tf2.errors import InputError, to_line


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    group: the heading under which the help lists it.
    about: what it does, in one line.
    settings, function: the class of its settings, and what is called with them, in this package. The help imports only
        the first, which imports no library: it is there at once.
    positional: the settings given without a flag, in order.
    """

    group: str
    about: str
    settings: str
    function: str
    positional: Sequence[str] = ()

    def find_settings(self) -> type:
        """Imports the class of its settings."""
        return resolve_name(f"gpt_tf2.{self.settings}")

    def run(self, settings: Any) -> None:
        """Imports its function and calls it."""
        resolve_name(f"gpt_tf2.{self.function}")(settings)


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "start",
        "train a small GPT-2 on Python's language reference, without a download",
        "commands.demo_settings:DemoSettings",
        "commands.demo:run_demo",
    ),
    "download": Command(
        "start",
        "download one of OpenAI's models",
        "commands.download_settings:DownloadSettings",
        "commands.download:print_download",
        ["size"],
    ),
    "models": Command(
        "start",
        "list the released models and your own: size, place, what they were made from",
        "commands.models_settings:ModelsSettings",
        "commands.models:print_models",
    ),
    "finetune": Command(
        "train",
        "fine-tune a model on a text, pairs, chats, summaries or your own task",
        "commands.finetune_settings:FinetuneSettings",
        "commands.finetune:run_finetune",
    ),
    "vocabulary": Command(
        "train",
        "learn a vocabulary from a text, for finetune --from_scratch",
        "commands.vocabulary_settings:VocabularySettings",
        "commands.vocabulary:learn_vocabulary",
        ["data"],
    ),
    "plan": Command(
        "train",
        "predict the memory of fine-tuning, by optimizer, --remat and LoRA",
        "commands.plan_settings:PlanSettings",
        "commands.plan:print_plan",
    ),
    "show-data": Command(
        "train",
        "print a data set's prompts and completions as a model sees them",
        "commands.show_data_settings:ShowDataSettings",
        "commands.show_data:show_data",
    ),
    "watch": Command(
        "train",
        "show fine-tunings in a browser while they run: losses, speed, samples",
        "commands.watch_settings:WatchSettings",
        "commands.watch:run_watch",
        ["output"],
    ),
    "merge": Command(
        "train",
        "merge a model and its LoRA adapters into one checkpoint",
        "commands.merge_settings:MergeSettings",
        "commands.merge:print_merge",
        ["adapters", "output"],
    ),
    "generate": Command(
        "use",
        "continue a text with a model",
        "commands.generate_settings:GenerateSettings",
        "commands.generate:print_samples",
    ),
    "chat": Command(
        "use",
        "talk to a model fine-tuned on chats, or ask one fine-tuned on CoQA about a text",
        "commands.chat_settings:ChatSettings",
        "commands.chat:chat",
        ["model"],
    ),
    "serve": Command(
        "use",
        "answer programs over HTTP with one model or several: OpenAI's API",
        "commands.serve_settings:ServeSettings",
        "commands.serve:run_serve",
        ["model"],
    ),
    "evaluate": Command(
        "score",
        "score a model's summaries or answers, or its perplexity on a text",
        "commands.evaluate_settings:EvaluateSettings",
        "commands.evaluate:run_evaluate",
    ),
    "compare": Command(
        "score",
        "two models on a text: perplexities, how often they agree, KL divergence",
        "commands.compare_settings:CompareSettings",
        "commands.compare:print_comparison",
        ["model", "other"],
    ),
    "score rouge": Command(
        "score",
        "ROUGE-1, -2 and -L of a file, as ROUGE-1.5.5 prints them",
        "commands.score_settings:RougeSettings",
        "commands.score:print_rouge",
        ["predictions", "references"],
    ),
    "score coqa": Command(
        "score",
        "F1 and exact match of a file, as CoQA's evaluator computes them",
        "commands.score_settings:CoqaSettings",
        "commands.score:print_coqa",
        ["gold", "predictions"],
    ),
    "export": Command(
        "move",
        "write a model for another program, such as llama.cpp, and compare it there",
        "commands.export_settings:ExportSettings",
        "commands.export:run_export",
        ["model", "format"],
    ),
    "push": Command(
        "move",
        "put a model on the Hugging Face Hub, with a card that its run fills in",
        "commands.push_settings:PushSettings",
        "commands.push:print_push",
        ["model", "repository"],
    ),
    "import": Command(
        "move",
        "turn llama.cpp's file of a GPT-2 (.gguf) into a checkpoint",
        "commands.import_gguf_settings:ImportSettings",
        "commands.import_gguf:import_gguf",
        ["file"],
    ),
    "completion": Command(
        "shell",
        "print a script that completes commands and flags",
        "commands.completion_settings:CompletionSettings",
        "cli:print_completion",
        ["shell"],
    ),
}


def main(arguments: Sequence[str] | None = None, prog: str = "") -> int:
    """Runs `COMMAND ARGUMENTS…` and returns the exit code: 0, 2 for bad input, 130 if interrupted.

    Args:
        arguments: by default those of the process.
        prog: what the user typed, for messages; by default `gpt-tf2 COMMAND`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = split_command(arguments)
    prog = prog or f"gpt-tf2 {command}".rstrip()
    try:
        prepare_streams()
        try:
            run(command, rest, prog)
        finally:
            sys.stdout.flush()  # here, where a full disk can be reported
    except InputError as error:
        print(to_line(f"{prog}: {error.on_command_line(find_names(command, rest))}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output is gone, as `head` is
        discard_output()
    except Exception as error:
        if not (isinstance(error, (OSError, OverflowError, UnicodeError)) or is_out_of_memory(error)):
            raise  # a mistake of ours
        print(to_line(f"{prog}: {explain(error)}"), file=sys.stderr)
        return 2
    return 0


def split_command(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command, of one word or of two, and its arguments. The command is empty if a flag comes first."""
    for words in (2, 1):
        if " ".join(arguments[:words]) in COMMANDS:
            return " ".join(arguments[:words]), arguments[words:]
    return "", arguments


def run(name: str, arguments: Sequence[str], prog: str) -> None:
    """Runs a command, or what can be asked for without one.

    Raises InputError for an unknown command.
    """
    if not name:
        print(answer(arguments))
        return
    command = COMMANDS[name]
    about = f"{command.about[0].upper()}{command.about[1:]}."
    command.run(parse(command.find_settings(), arguments, prog, about, command.positional))
    from gpt_tf2.backend.starting import leave_processes

    leave_processes()


def answer(arguments: Sequence[str]) -> str:
    """What `gpt-tf2` prints without a command: its version, or the list of commands."""
    first = arguments[0] if arguments else "--help"
    if first in ("-V", "--version", "version"):
        from gpt_tf2.commands.version import describe_version

        return describe_version()
    prefix = "" if first in ("-h", "--help", "help") else f"{first} "
    commands = {name: command for name, command in COMMANDS.items() if name.startswith(prefix)}
    if not commands:
        raise InputError(
            f"unknown command {first}{suggest(first, {name.split()[0] for name in COMMANDS})} (see gpt-tf2 --help)"
        )
    if prefix and arguments[1:2] not in (["-h"], ["--help"]):
        raise InputError(f"{' '.join(arguments[:2])}: use {' or '.join(commands)}")
    return list_commands(commands)


def print_completion(settings: Any) -> None:
    """Prints a script that completes all commands."""
    from gpt_tf2.commands import completion

    completion.print_completion(settings, COMMANDS)


def list_commands(commands: Mapping[str, Command]) -> str:
    """The commands in groups, one line each."""
    lines = ["usage: gpt-tf2 COMMAND [flags]"]
    for group in dict.fromkeys(command.group for command in commands.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:<13}{command.about}" for name, command in commands.items() if command.group == group]
    lines += ["", "gpt-tf2 COMMAND --help lists a command's flags; gpt-tf2 --version names the versions in use."]
    return "\n".join(lines)


def find_names(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """The names that the user has typed for settings, for messages."""
    with contextlib.suppress(InputError):
        return find_typed(COMMANDS[command].find_settings(), arguments) if command else {}
    return {}


def prepare_streams() -> None:
    """Lets stdout and stderr print every character, and replaces a closed stdin or stderr by nothing.

    Raises InputError if stdout is closed: the next file that is opened would take its place.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    if sys.stdout is None:
        raise InputError("stdout is closed: redirect it to a file, or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory is short: Python's own error, or the one of TensorFlow (ResourceExhaustedError) or of XLA."""
    return (
        isinstance(error, MemoryError)
        or "ResourceExhausted" in type(error).__name__
        or "RESOURCE_EXHAUSTED" in str(error)
    )


def explain(error: Exception) -> str:
    """What the user can do about an error that no part of the program has turned into an InputError."""
    if is_out_of_memory(error):
        reason = f" ({str(error)[:80]})" if str(error) else ""
        return f"not enough memory{reason}: choose a smaller batch, length or model"
    if not isinstance(error, OSError):
        return f"a value that cannot be used ({error}): check the settings and the files"
    if error.filename is None:  # our files have names
        discard_output()
        return f"stdout cannot be written ({error.strerror or error}): free space, or redirect it elsewhere"
    return f"{error.filename}: {error.strerror}: check the path, its permissions and the space on the disk"


def discard_output() -> None:
    """Sends what is still to be printed nowhere, so that Python does not fail at its exit."""
    with contextlib.suppress(OSError):  # a program that calls us may have replaced stdout by no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
