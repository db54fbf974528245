"""A checkpoint converted for an engine: once, and kept beside the checkpoint, or else in the user's cache folder."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import KEPT_FOLDER, Sources, open_or_build
from gpt_tf2.storage.machine import user_cache

FORMATS = {"litert": 4, "native": 2}  # of the engines' files: a conversion of another format is converted again
DRAFT = "draft"  # int8 without its perplexity: what it costs does not matter to float32, which verifies all tokens

Perplexities = tuple[float, float]  # of a sample of text: in float32, in int8


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A folder of an engine's files.

    perplexity: what int8 costs on a sample of text; None in float32, and where int8 only drafts.
    is_new: whether the model was converted just now.
    """

    folder: Path
    perplexity: Perplexities | None
    is_new: bool = dataclasses.field(default=False, compare=False)


def conversion_folder(path: Path, engine: str, precision: str) -> Path:
    """Return where the conversion of a checkpoint is kept. Several checkpoints may share the folder that it lies in."""
    return companion_folder(path) / KEPT_FOLDER / f"{engine}-{path.name}-{precision}"


def cached_folder(path: Path, engine: str, precision: str) -> Path | None:
    """Return where the conversion of a checkpoint is kept if nothing can be written beside it."""
    folder = conversion_folder(path, engine, precision)
    digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    cache = user_cache()
    return cache / f"conversions-{digest}" / folder.name if cache else None


@contextlib.contextmanager
def open_conversion(
    model: OpenedModel,
    engine: str,
    precision: str,
    convert: Callable[[Path], Perplexities | None],
    on_wait: Callable[[], None],
) -> Iterator[Conversion]:
    """Open a model's conversion, or convert the model if its files have changed or the conversion is damaged.

    Open the files inside the `with` block; see `open_or_build`.

    Args:
        engine: native or litert.
        precision: float32, int8 or `DRAFT`.
        convert: writes the files to a folder and returns the perplexities, if it measures them.
        on_wait: called if another process is converting the model. Its work is used then.

    Raises InputError if the files cannot be written.
    """

    built: list[Path] = []

    def build(folder: Path) -> dict[str, Any]:
        built.append(folder)
        return {"perplexity": convert(folder)}

    with open_or_build(
        conversion_folder(model.path, engine, precision),
        json.dumps({"format": FORMATS[engine], "precision": precision, "config": model.config.to_dict()}),
        Sources(lambda: map(os.path.abspath, model.sources)),
        build,
        on_wait=on_wait,
        fix=f"free space, or set {'`draft` to off' if precision == DRAFT else '`engine` to graph'}",
        changed=InputError(f"{model.path}: changed while it was converted: start again"),
        otherwise=cached_folder(model.path, engine, precision),
    ) as kept:
        perplexity = kept.facts["perplexity"]
        yield Conversion(kept.folder, perplexity and (perplexity[0], perplexity[1]), bool(built))
