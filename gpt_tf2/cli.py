"""The command line: arguments in, exit code out."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from gpt_tf2.backend.starting import leave_processes
from gpt_tf2.commands.flags import parse
from gpt_tf2.errors import InputError, to_line


def demo(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.demo import DemoSettings, run_demo

    parse(DemoSettings, arguments, prog, "Train a small GPT-2 on Python's language reference, without a download.")
    run_demo()


def download(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.download import DownloadSettings, download

    print(download(parse(DownloadSettings, arguments, prog, "Download one of OpenAI's models.", positional=["size"])))


def finetune(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.finetune import finetune
    from gpt_tf2.commands.finetune_settings import FinetuneSettings

    finetune(parse(FinetuneSettings, arguments, prog, "Fine-tune a model on a text of your own."))


def plan(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.plan import PlanSettings, table

    print(
        table(
            parse(
                PlanSettings,
                arguments,
                prog,
                "Predict the memory of fine-tuning with each optimizer, --remat and LoRA, in GB.",
            )
        )
    )


def merge(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.merge import MergeSettings, merge

    about = "Merge a model and its LoRA adapters into one checkpoint."
    print(merge(parse(MergeSettings, arguments, prog, about, positional=["adapters", "output"])))


def generate(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.generate import GenerateSettings, print_samples

    print_samples(parse(GenerateSettings, arguments, prog, "Continue a text with a model."))


def chat(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.chat import ChatSettings, chat

    about = "Ask a model fine-tuned on CoQA about a text: one question per line on stdin."
    chat(parse(ChatSettings, arguments, prog, about, positional=["model_path"]))


def evaluate(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.evaluate import EvaluateSettings, evaluate

    about = "Score a model: its summaries or answers, or its perplexity on a text."
    evaluate(parse(EvaluateSettings, arguments, prog, about))


def score(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands import score as scoring

    metric, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if metric == "rouge":
        fields, about = ["predictions", "references"], "ROUGE-1, -2 and -L as ROUGE-1.5.5 prints them."
        rouge = parse(scoring.RougeSettings, rest, f"{prog} rouge", about, fields)
        scoring.print_scores(scoring.score_rouge(rouge), rouge.json)
    elif metric == "coqa":
        fields, about = ["gold", "predictions"], "F1 and exact match as CoQA's evaluator computes them."
        coqa = parse(scoring.CoqaSettings, rest, f"{prog} coqa", about, fields)
        scoring.print_scores(scoring.score_coqa(coqa), coqa.json)
    elif metric in ("-h", "--help"):
        print(f"usage: {prog} {{rouge,coqa}} … (see {prog} rouge --help)")
    else:
        raise InputError(f"score {metric}".strip() + ": use score rouge or score coqa, and two files")


def show_data(arguments: Sequence[str], prog: str) -> None:
    from gpt_tf2.commands.show_data import ShowDataSettings, show_data

    show_data(
        parse(ShowDataSettings, arguments, prog, "Print a data set's prompts and completions as a model sees them.")
    )


COMMANDS: dict[str, Callable[[Sequence[str], str], None]] = {
    "demo": demo,
    "download": download,
    "plan": plan,
    "finetune": finetune,
    "merge": merge,
    "generate": generate,
    "chat": chat,
    "evaluate": evaluate,
    "score": score,
    "show-data": show_data,
}


def main(arguments: Sequence[str] | None = None, prog: str = "") -> int:
    """Runs `COMMAND ARGUMENTS…` and returns the exit code: 0, 2 for bad input, 130 if interrupted.

    Args:
        arguments: by default those of the process.
        prog: what the user typed, for messages; by default `gpt-tf2 COMMAND`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else "--help"
    prog = prog or ("gpt-tf2" if command in ("-h", "--help") else f"gpt-tf2 {command}")
    try:
        prepare_streams()
        try:
            run(command, arguments[1:], prog)
        finally:
            sys.stdout.flush()  # here, where a full disk can be reported
    except InputError as error:
        print(to_line(f"{prog}: {error.on_command_line()}"), file=sys.stderr)
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


def run(command: str, arguments: Sequence[str], prog: str) -> None:
    """Runs a command."""
    if command in ("-h", "--help"):
        print(f"usage: gpt-tf2 {{{','.join(COMMANDS)}}} … (see gpt-tf2 COMMAND --help)")
    elif command not in COMMANDS:
        raise InputError(f"unknown command: use one of {', '.join(COMMANDS)}")
    else:
        COMMANDS[command](arguments, prog)
        leave_processes()


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
