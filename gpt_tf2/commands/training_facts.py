"""What a card tells of the run that made a model: read from the files that the run and its evaluations left."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.hub import is_on_hub, parse_name
from gpt_tf2.checkpoints.peft import HUB, OWNER
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.flags import flags_of
from gpt_tf2.commands.recipes import LAST, read_run
from gpt_tf2.errors import InputError
from gpt_tf2.exporting.model_card import TrainingFacts
from gpt_tf2.storage.json_text import read_json
from gpt_tf2.tasks.lookup import BUILT_IN
from gpt_tf2.tasks.task import Scores
from gpt_tf2.training.best import Validation, counts, find_best
from gpt_tf2.training.loggers.history_file import HISTORY, keep_lines

# Settings that say how a run went on its machine, not what it learned.
OF_MACHINE = ("offline", "save_every", "sample_every", "log_to", "remat", "shard", "eager", "resume", "patience")
SCORES = re.compile(rf"(?:{'|'.join(BUILT_IN)})_[a-z]+(?:_[0-9a-f]{{8}})?\.scores\.json")


def read_facts(path: Path) -> TrainingFacts:
    """What is known of the run that made a located model. Damaged files are left out, as if they were not there."""
    run = read_run(path)
    folder = companion_folder(path)
    validations = read_validations(Path(str(folder).removesuffix(LAST)) / HISTORY)
    is_last = folder.name.endswith(LAST)
    curve = Path(str(path.with_suffix("")).removesuffix(LAST) + ".png")
    return TrainingFacts(
        base=find_repository(str(run.get("model", ""))) if not run.get("from_scratch") else "",
        data=Path(str(run.get("data", ""))).name,
        recipe=choose_settings(run),
        validation=validations[-1] if is_last and validations else find_best(validations),
        validations=0 if is_last else sum(map(counts, validations)),
        unit="nats per token" if run.get("objective", "likelihood") == "likelihood" else "",
        curve=curve if curve.is_file() else None,
        scores=read_scores(path),
    )


def find_repository(model: str) -> str:
    """The repository on the hub of a model by its name; empty if it has none.

    Example:
        >>> find_repository("124M"), find_repository("hf://ada/boats@v2"), find_repository("output/book.h5")
        ('openai-community/gpt2', 'ada/boats', '')
    """
    if is_on_hub(model):
        return parse_name(model).repo
    return next((f"{OWNER}{name}" for name, size in HUB.items() if size == model), "")


def choose_settings(run: Mapping[str, Any]) -> str:
    """The settings of a run that differ from the defaults, as TOML. Free texts, such as paths, are private."""
    shown = {"task": Path(str(run["task"])).name} if "task" in run else {}
    for name, declared in flags_of(FinetuneSettings).items():
        is_text = declared.kind is str and not declared.choices
        if name in run and name not in OF_MACHINE and not is_text and run[name] not in ([], default_of(name)):
            shown[name] = run[name]
    return tomli_w.dumps(shown)


def default_of(name: str) -> Any:
    """The default of a setting of `finetune`, as TOML holds it."""
    value = FinetuneSettings.__dataclass_fields__[name].default
    return list(value) if isinstance(value, tuple) else value


def read_validations(path: Path) -> list[Validation]:
    """The validation losses in a history, by the steps done; none if there is no file."""
    lines = map(json.loads, keep_lines(path, 2**63))
    return [(line["step"], loss) for line in lines if isinstance(loss := line.get("loss/validation"), float)]


def read_scores(path: Path) -> dict[str, Scores]:
    """The scores of a model, by the names of their files, which `evaluate` writes beside it or to `output/`.

    Those that are older than the model are another one's.
    """
    name = path.parent.name if companion_folder(path) == path.parent else path.stem
    found: dict[str, Scores] = {}
    for folder in dict.fromkeys([path.parent, Path("output")]):
        for file in sorted(folder.glob("*.scores.json")):
            rest = file.name.removeprefix(f"{name}_")
            if rest == file.name or not SCORES.fullmatch(rest) or file.stat().st_mtime < newest(path):
                continue
            try:
                scores: Any = read_json(file)
            except InputError:
                continue
            if is_scores(scores):
                found[rest.removesuffix(".scores.json")] = scores
    return found


def newest(path: Path) -> float:
    """The time of a located model's last change; a TF1 checkpoint is the prefix of two files."""
    return max(file.stat().st_mtime for file in (path, Path(f"{path}.index")) if file.is_file())


def is_scores(value: Any) -> bool:
    """Whether a JSON value is tables of figures."""
    tables = value.values() if isinstance(value, dict) else [None]
    rows = [row for table in tables for row in (table.values() if isinstance(table, dict) else [None])]
    return all(isinstance(row, dict) and all(isinstance(x, int | float) for x in row.values()) for row in rows)
