"""`export`: a model in the format of another program, opened there and compared."""

import dataclasses
import gc
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.memory import return_freed_memory, trim_heap
from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.find_model import find_model_and_base, name_model
from gpt_tf2.commands.flags import Flag, check_ranges, flag
from gpt_tf2.commands.model_settings import BASE, MODEL, OFFLINE
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.data.held_out import TOKENS
from gpt_tf2.decoding.engine import read_sample
from gpt_tf2.errors import InputError, to_line
from gpt_tf2.exporting.modelfile import write_modelfile
from gpt_tf2.exporting.proof import LogitsOf, Proof, compute_expected, prove
from gpt_tf2.exporting.reference import Reference
from gpt_tf2.storage.folders import check_new, stage
from gpt_tf2.storage.text_files import read_text

OUTPUT = Path("output")
# What makes logits differ, and by how much at most, as a share of their standard deviation. GELU's other form, of erf,
# makes 1e-3 and more. Random weights of 124M differ by 1e-5, in llama.cpp by 2e-3; trained ones round more coarsely.
ROUNDING, GELU_TABLE, QUANTIZED = 1e-4, 0.01, 0.5


@dataclasses.dataclass(frozen=True)
class Format:
    """A format to export to.

    module: in `gpt_tf2.exporting`, with the functions `write` and `read_logits`.
    suffix: of the file or folder that is written.
    precisions: of the weights, each with the largest difference of a logit that it may make, as a share of the logits'
        standard deviation. The first is the default.
    program: runs the format, and is what an export is compared in.
    imported: its modules.
    packages: what to install.
    """

    module: str
    suffix: str
    precisions: Mapping[str, float]
    program: str
    imported: tuple[str, ...]
    packages: str


FORMATS = {
    "gguf": Format(
        "gguf_file",
        ".gguf",
        {"float32": GELU_TABLE, "float16": 0.1, "q8_0": QUANTIZED},
        "llama.cpp",
        ("llama_cpp",),
        "llama-cpp-python",
    ),
    "hf": Format(
        "hf_folder", "-hf", {"float32": ROUNDING}, "transformers", ("torch", "transformers"), "torch transformers"
    ),
    "keras": Format("keras_file", ".keras", {"float32": ROUNDING}, "Keras", ("keras",), "keras"),
    "litert": Format(
        "litert_file",
        ".tflite",
        {"float32": ROUNDING, "int8": QUANTIZED},
        "LiteRT",
        ("ai_edge_litert",),
        "ai-edge-litert",
    ),
    "onnx": Format(
        "onnx_file",
        "-onnx",
        {"float32": ROUNDING, "int8": QUANTIZED},
        "ONNX Runtime",
        ("onnxruntime",),
        "onnxruntime",
    ),
    "openai": Format("openai_folder", "-openai", {"float32": ROUNDING}, "TensorFlow", ("tensorflow",), "tensorflow"),
    "saved_model": Format(
        "saved_model", "-saved_model", {"float32": ROUNDING}, "TensorFlow", ("tensorflow",), "tensorflow"
    ),
    "web": Format(
        "web_folder",
        "-web",
        {"int8": QUANTIZED, "float32": ROUNDING},
        "ONNX Runtime",
        ("onnxruntime",),
        "onnxruntime",
    ),
}
PRECISIONS = tuple(dict.fromkeys(precision for format in FORMATS.values() for precision in format.precisions))


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """The settings of `export`.

    Raises InputError for a value that is out of range.
    """

    model: str = flag(dataclasses.MISSING, MODEL)
    format: str = flag(dataclasses.MISSING, f"the format: {', '.join(FORMATS)}", choices=tuple(FORMATS))
    output: str | None = flag(None, "the file or folder to write (output/MODEL.FORMAT)", metavar="PATH")
    precision: str | None = flag(
        None,
        "numbers of the weights (float32; web: int8): float16 is half as large, q8_0 and int8 a quarter",
        choices=PRECISIONS,
    )
    data: str | None = flag(
        None, "a text to compare on (what the model's run held out, or Python's language reference)", metavar="FILE"
    )
    ollama: bool = flag(False, "write a Modelfile for Ollama beside a gguf file", kind=bool)
    base: str | None = flag(None, **BASE, metavar="MODEL")
    offline: bool = flag(False, **OFFLINE)

    def __post_init__(self) -> None:
        check_ranges(self)
        allowed = Flag("", choices=tuple(FORMATS[self.format].precisions))
        if self.precision and not allowed.accepts(self.precision):
            raise InputError(f"not in {self.format}: use {allowed.describe_range()}", "precision", self.precision)
        if self.ollama and self.format != "gguf":
            raise InputError(f"reads gguf alone, not {self.format}: leave it out, or export to gguf", "ollama")


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
        expected = compute_expected(Reference(model), model.config.n_ctx, text, logits)
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
