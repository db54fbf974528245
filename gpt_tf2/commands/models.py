"""`models`: the released models and the user's own, where they are, and how they were made."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from gpt_tf2.checkpoints import openai
from gpt_tf2.checkpoints.companions import companion_folder, find_companion
from gpt_tf2.checkpoints.formats import locate, open_adapters, read_config
from gpt_tf2.checkpoints.opened import choose_config
from gpt_tf2.checkpoints.released import cached_folder, count_bytes
from gpt_tf2.commands.find_model import find_on_machine, list_own_models
from gpt_tf2.commands.models_settings import ModelsSettings
from gpt_tf2.commands.recipes import read_run
from gpt_tf2.config import SIZES
from gpt_tf2.errors import InputError

NAMES = 36  # columns of a name; a longer one has a line to itself
WIDTH = 60


@dataclasses.dataclass(frozen=True)
class ListedModel:
    """A model in the list.

    name: its size if it is a released one, or else its path. path: None if it is not on this machine.
    parameters: None if they cannot be read, as `problem` says. size: bytes on disk, or to download.
    base: the model that it holds adapters of. run: the settings of the run that wrote it.
    """

    name: str
    path: str | None
    parameters: int | None
    size: int
    base: str | None = None
    run: dict[str, Any] | None = None
    problem: str | None = None


def list_models() -> dict[str, list[ListedModel]]:
    """The `released` models and the user's `own`, those in `models/` and `output/`. No weights are read."""
    return {
        "released": [describe_released(size) for size in SIZES],
        "own": [describe_model(str(path), path) for path in list_own_models()],
    }


def describe_released(size: str) -> ListedModel:
    """A released model, which may be on this machine."""
    path = find_on_machine(size)
    if path:
        return describe_model(size, path)
    n_bytes = count_bytes(SIZES[size])
    return ListedModel(size, None, n_bytes // 4, n_bytes)


def describe_model(name: str, path: Path) -> ListedModel:
    """A model on this machine."""
    try:
        located = locate(path)
        base, parameters = count_parameters(located)
    except InputError as error:
        return ListedModel(name, str(path), None, measure_size(path), problem=str(error))
    run = read_run(located) or None  # the model is whole, even if its recipe is not
    return ListedModel(name, str(path), parameters, measure_size(located), base, run)


def count_parameters(located: Path) -> tuple[str | None, int]:
    """The path of the base if a checkpoint holds adapters, and how many parameters it holds itself.

    Raises InputError if the file is damaged, or if there are no hyper-parameters.
    """
    if held := open_adapters(located):
        return (held.bases or ["a model"])[-1], sum(map(math.prod, held.shapes.values()))
    config = choose_config(located, read_config(located), find_companion(located, "hparams.json"))
    return None, count_bytes(config) // 4


def measure_size(located: Path) -> int:
    """The bytes of a checkpoint on disk, without those of a base."""
    files = (located, *(openai.with_suffix(located, suffix) for suffix in (openai.INDEX, openai.DATA)))
    return sum(file.stat().st_size for file in files if file.is_file())


def print_models(settings: ModelsSettings) -> None:
    """Prints the list, as a table or as JSON."""
    listed = list_models()
    if settings.json:
        content = {kind: [vars(model) for model in models] for kind, models in listed.items()}
        print(json.dumps(content, indent=1, default=str))  # a date of TOML has no form in JSON
    else:
        print("\n".join(format_table(**listed)))


def format_table(released: list[ListedModel], own: list[ListedModel]) -> list[str]:
    """The list as lines of at most 60 columns, unless a name is longer."""
    lines = [f"{'released':<10} {'parameters':>11} {'size':>8}  place"]
    for model in released:
        lines.append(f"{model.name:<10} {format_figures(model)}  {format_place(model)}")
    lines += [f"cache: {cached_folder('')}"] if any(format_place(model) == "cache" for model in released) else []
    lines += ["", f"{'own':<{NAMES}} {'parameters':>11} {'size':>8}"] if own else []
    for model in own:
        names = [model.name] if len(model.name) <= NAMES else [model.name, ""]
        lines += [*names[:-1], f"{names[-1]:<{NAMES}} {format_figures(model)}"]
        lines.append(shorten(f"  {format_origin(model)}"))
    return lines


def format_figures(model: ListedModel) -> str:
    """The parameters and the size."""
    parameters = "?"
    if model.parameters is not None:
        parameters = f"{model.parameters:,}" if model.parameters < 1e6 else f"{model.parameters / 1e6:,.1f} M"
    size = f"{model.size / 1e9:.2f} GB" if model.size >= 1e8 else f"{model.size / 1e6:.1f} MB"
    return f"{parameters:>11} {size:>8}"


def format_place(model: ListedModel) -> str:
    """Where a released model is."""
    if model.path is None:
        return "not downloaded"
    place = "cache" if model.path == str(cached_folder(model.name)) else model.path
    return f"{place}, damaged" if model.problem else place


def format_origin(model: ListedModel) -> str:
    """What a model was made from, as far as that is known."""
    if model.problem:
        return model.problem.removeprefix(f"{model.path}: ")
    run = model.run or {}
    base = f"adapters of {companion_folder(model.base).name}" if model.base else str(run.get("model", ""))
    data = f" on {Path(str(run['data'])).name}" if "data" in run else ""
    figures = [f", {label.format(run[key])}" for key, label in (("epochs", "epochs {}"), ("lr", "lr {}")) if key in run]
    return "".join([base, data, *figures]) or "-"


def shorten(line: str) -> str:
    """A line of at most 60 columns."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
