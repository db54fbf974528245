"""The settings of `export`."""

import dataclasses
from collections.abc import Mapping

from gpt_tf2.commands.flags import Flag, check_ranges, flag
from gpt_tf2.commands.model_settings import BASE, MODEL, OFFLINE
from gpt_tf2.errors import InputError

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
