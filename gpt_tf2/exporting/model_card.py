"""The card of a model on the Hugging Face Hub: what it is, how it was made, what was measured, and its limits."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from gpt_tf2.checkpoints.released import count_bytes
from gpt_tf2.config import GPT2Config
from gpt_tf2.tasks.task import Scores
from gpt_tf2.training.best import Validation

CARD = "README.md"
TAGS = ["gpt2", "gpt-tf2"]
MARK = "<!-- Written by gpt-tf2 push. Delete this line, and the next push keeps your card. -->"


@dataclasses.dataclass(frozen=True)
class TrainingFacts:
    """What is known of the run that made a model; a field is empty where nothing is.

    base: the repository on the hub of the model that it began with.
    data: the name of the data, without its folder.
    recipe: its settings as TOML, without any text that may be private, such as a path.
    validation: of the weights, by the steps done.
    validations: how many there were that it is the best of; 0 if it was not chosen.
    unit: of its loss.
    curve: the picture of its losses.
    scores: the tables of each evaluation, by its name.
    """

    base: str = ""
    data: str = ""
    recipe: str = ""
    validation: Validation | None = None
    validations: int = 0
    unit: str = "nats per token"
    curve: Path | None = None
    scores: Mapping[str, Scores] = dataclasses.field(default_factory=dict)


def make_card(repo: str, config: GPT2Config, is_chat: bool, license: str | None, facts: TrainingFacts) -> str:
    """The text of a `README.md`, with its YAML header.

    Args:
        repo: `owner/name`.
        is_chat: whether it was trained on chats.
        license: as the hub names it, such as `mit`; None leaves it out.

    Raises ImportError if huggingface_hub is not installed.
    """
    from huggingface_hub import ModelCardData

    base = facts.base or None
    about = ModelCardData(
        base_model=base, library_name="transformers", license=license, pipeline_tag="text-generation", tags=TAGS
    )
    parts = [
        f"---\n{about.to_yaml()}\n---",
        f"# {repo.split('/')[1]}",
        introduce(config, facts),
        "## Use",
        show_use(repo, is_chat),
    ]
    if facts.recipe or facts.curve or facts.validation:
        parts += ["## Training", *describe_training(facts)]
    if facts.scores:
        parts += ["## Scores", *(part for name, scores in facts.scores.items() for part in format_scores(name, scores))]
    return "\n\n".join([*parts, "## Limitations", list_limits(config, facts), MARK]) + "\n"


def introduce(config: GPT2Config, facts: TrainingFacts) -> str:
    """What the model is, in a sentence."""
    base = f" from [{facts.base}](https://huggingface.co/{facts.base})" if facts.base else ""
    data = f" on `{facts.data.replace('`', '')}`" if facts.data else ""
    trained = f", trained{base}{data} with gpt-tf2" if base or data else ""
    size = f"{count_bytes(config) / 4e6:,.1f} M parameters and a context of {config.n_ctx:,} tokens"
    return f"A GPT-2 with {size}{trained}."


def show_use(repo: str, is_chat: bool) -> str:
    """Lines that run the model."""
    command = f"gpt-tf2 chat hf://{repo}" if is_chat else f'gpt-tf2 generate --model hf://{repo} --prompt "The"'
    asked = '[{"role": "user", "content": "Who are you?"}]' if is_chat else '"The"'
    lines = ["from transformers import pipeline", "", f'print(pipeline("text-generation", "{repo}")({asked}))']
    return "\n".join(["```sh", command, "```", "", "```python", *lines, "```"])


def describe_training(facts: TrainingFacts) -> list[str]:
    """The settings, the curve and the validation loss of the run, as paragraphs."""
    parts = [f"```toml\n{facts.recipe.strip()}\n```"] if facts.recipe else []
    if facts.curve:
        parts.append(f"![Loss by step]({facts.curve.name})")
    if facts.validation:
        step, loss = facts.validation
        exponential = f" (perplexity {math.exp(loss):.4g})" if facts.unit and loss < 100 else ""
        unit = f" {facts.unit}" if facts.unit else ""
        of = f", the best of {facts.validations} validations on the same data" if facts.validations > 1 else ""
        parts.append(f"Validation loss of these weights: {loss:.4g}{unit}{exponential}, after step {step:,}{of}.")
    return parts


def format_scores(name: str, scores: Scores) -> list[str]:
    """The tables of an evaluation in Markdown, below its name. A row that is a path is shown without its folder."""
    parts = [f"### {escape(name)}"]
    for title, rows in scores.items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines = [[title, *columns], ["---"] * (len(columns) + 1)]
        for row, figures in rows.items():
            lines.append([Path(row).name, *(f"{figures[c]:.5g}" if c in figures else "" for c in columns)])
        parts.append("\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines))
    return parts


def list_limits(config: GPT2Config, facts: TrainingFacts) -> str:
    """What nobody should expect of the model."""
    measured = "The figures above are all that was" if facts.scores or facts.validation else "Nothing was"
    lines = [
        "It continues text, and states false things as fluently as true ones. Check what it writes.",
        "It repeats the biases of what it was trained on, and may repeat passages of it, private ones too.",
        f"It sees no more than the last {config.n_ctx:,} tokens of a text.",
        f"{measured} measured. It was not tested for safety, nor for languages and uses other than its data's.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def escape(text: str) -> str:
    """A text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
