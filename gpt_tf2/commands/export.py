"""`export`: a model in the format of another program, opened there and compared."""

import gc
import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.memory import return_freed_memory, trim_heap
from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.export_settings import FORMATS, ExportSettings, Format
from gpt_tf2.commands.find_model import find_model_and_base, name_model
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.data.held_out import TOKENS
from gpt_tf2.decoding.engine import read_sample
from gpt_tf2.decoding.reference import hold_reference
from gpt_tf2.errors import InputError, to_line
from gpt_tf2.exporting.modelfile import write_modelfile
from gpt_tf2.exporting.proof import LogitsOf, Proof, compute_expected, prove
from gpt_tf2.storage.folders import check_new, stage
from gpt_tf2.storage.text_files import read_text

OUTPUT = Path("output")


def run_export(settings: ExportSettings) -> Path:
    """Exports a model, prints the path, and on stderr how it compares. Returns the path.

    Raises SystemExit, with the code 1, if the exported model computes something else. It is not kept then, and what
    was at the path before stays.
    """
    output, proof = export(settings)
    if proof:
        print_to_stderr(f"compared in {FORMATS[settings.format].program}: {proof.describe()}")
    print(output)
    return output


def export(settings: ExportSettings) -> tuple[Path, Proof | None]:
    """Writes a model in another format, opens it with that format's own program, and compares the two.

    Returns:
        The path, and the comparison; None if the program is not installed, or cannot run here.

    Raises InputError if a setting or the model is bad, or if the output cannot be written or is the model itself; and
    SystemExit, see `run_export`.
    """
    path, base = find_model_and_base(settings.model, settings.base, settings.offline)
    model, format = open_model(path, base=base), FORMATS[settings.format]
    if model.remark:
        print_to_stderr(model.remark)
    text = read_text_to_compare(settings.data, model)
    precision = settings.precision or next(iter(format.precisions))
    output = Path(settings.output) if settings.output else name_output(settings.model, format, precision)
    check_output(output, format, model)
    return_freed_memory()  # the parts of a comparison run one after the other
    module: Any = importlib.import_module(f"gpt_tf2.exporting.{format.module}")
    is_there = all(map(importlib.util.find_spec, format.imported))
    if not is_there:
        print_to_stderr(f"not compared in {format.program}: pip install {format.packages}")
    with stage(output) as written:
        module.write(model, written, precision)
        model.check_unchanged()
        proof = compare(model, text, written, module.read_logits, format, precision) if is_there else None
    if settings.ollama:
        write_modelfile(output, model)
    return output, proof


def check_output(output: Path, format: Format, model: OpenedModel) -> None:
    """Raises InputError if something is at the path that must not be replaced, such as the model itself."""
    if not format.suffix.startswith("."):
        return check_new(output)
    if output.suffix != format.suffix:
        raise InputError(f"end the name in {format.suffix}", "output", output)
    if output.exists() and not output.is_file():
        raise InputError("is there and no file: choose another name", "output", output)
    if output.exists() and any(output.samefile(source) for source in model.sources):
        raise InputError("is the model itself: choose another name", "output", output)


def compare(
    model: OpenedModel,
    text: np.ndarray,
    written: Path,
    read_logits: Callable[[Path], LogitsOf],
    format: Format,
    precision: str,
) -> Proof | None:
    """Opens what was written in its own program, and compares it on a text, int [N].

    Returns None if the program cannot be imported, or lacks memory or a part of its own. Raises SystemExit, see
    `run_export`.
    """
    gc.collect()  # a network was written, whose parts refer to each other
    with tempfile.TemporaryFile(dir=written.parent) as logits:
        expected = compute_expected(hold_reference(model), model.config.n_ctx, text, logits)
        trim_heap()
        if obstacle := import_program(format):
            print_to_stderr(f"not compared in {format.program}: {obstacle}")
            return None
        try:
            proof = prove(expected, read_logits(written))
        except Exception as error:  # the program's own, of any kind
            if isinstance(error, (ImportError, MemoryError)) or "alloc" in str(error):  # as each says in its own way
                print_to_stderr(to_line(f"not compared in {format.program}: {error or 'too little memory'}"))
                return None
            problem = f"{format.program} does not run it ({error})"
        else:
            if proof.holds(format.precisions[precision]):
                return proof
            problem = f"in {format.program} it is another model: {proof.describe()}"
    print_to_stderr(to_line(f"gpt-tf2 export: nothing is written: {problem}"))
    raise SystemExit(1)


def import_program(format: Format) -> str | None:
    """Imports a format's own program. Returns why that is impossible; None if it is not."""
    for name in format.imported:
        try:
            with silence_stderr():  # TensorFlow beside JAX reports that it finds no GPU
                importlib.import_module(name)
        except Exception as error:  # a broken installation raises errors of any kind
            return to_line(f"{name} cannot be imported ({error}): pip install it again")
    return None


def read_text_to_compare(data: str | None, model: OpenedModel) -> np.ndarray:
    """The token ids to compare on, int [N]. Raises InputError if the text cannot be read or is too short."""
    if data is None:
        return read_sample(model, print_to_stderr)
    ids = model.tokenizer.encode(read_text(data)[: 8 * TOKENS])[:TOKENS]
    if len(ids) < 2:
        raise InputError("less than two tokens: give a longer text", "data", data)
    return np.array(ids)


def name_output(model: str, format: Format, precision: str) -> Path:
    """Where a model is written by default: `output/124M.gguf`, `output/124M-q8_0.gguf`."""
    ending = "" if precision == next(iter(format.precisions)) else f"-{precision}"
    return OUTPUT / f"{name_model(model)}{ending}{format.suffix}"
