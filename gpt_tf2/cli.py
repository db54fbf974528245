"""The command line: arguments in, exit code out."""

import os
import sys
from collections.abc import Callable, Sequence

from gpt_tf2.backend.starting import leave_processes
from gpt_tf2.commands.flags import parse
from gpt_tf2.errors import InputError


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
    if command in ("-h", "--help"):
        print(f"usage: gpt-tf2 {{{','.join(COMMANDS)}}} … (see gpt-tf2 COMMAND --help)")
        return 0
    prog = prog or f"gpt-tf2 {command}"
    try:
        if command not in COMMANDS:
            raise InputError(f"unknown command: use one of {', '.join(COMMANDS)}")
        COMMANDS[command](arguments[1:], prog)
        leave_processes()
    except InputError as error:
        print(f"{prog}: {' '.join(error.on_command_line().split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output is gone, as `head` is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
