"""ONNX: a folder that ONNX Runtime, optimum and transformers.js open."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.chat_templates import JINJA
from gpt_tf2.checkpoints.huggingface import describe
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.checkpoints.transformers_settings import TransformersSettings
from gpt_tf2.errors import InputError
from gpt_tf2.exporting.chat_jinja import find_chat_jinja
from gpt_tf2.exporting.onnx_graph import build_graph, read_tensors, tensor_types
from gpt_tf2.exporting.onnx_tensors import write_graph
from gpt_tf2.exporting.proof import LogitsOf, split_steps
from gpt_tf2.storage.folders import new_folder

# By precision: the file, as transformers.js looks for it, and its own name of the precision.
FILES = {"float32": ("model.onnx", "fp32"), "int8": ("model_quantized.onnx", "q8")}


def write(model: OpenedModel, output: Path, precision: str = "float32") -> None:
    """Writes a model as a folder in the layout that optimum and transformers.js read.

    The graph is `onnx/model.onnx`, or `onnx/model_quantized.onnx` in int8; see `build_graph`. Beside it lie the
    hyper-parameters, the vocabulary, how to generate, and the chat template if the model has one.

    Args:
        output: the folder, which must be empty or missing.
        precision: float32 or int8. In int8 each matrix has a scale per output, and each token is rounded by itself.

    Raises InputError if the package onnx is missing, if the folder holds something, or if it cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M-onnx"))  # doctest: +SKIP
    """
    if not importlib.util.find_spec("onnx"):
        raise InputError("needs the package onnx: run pip install '.[onnx]'", "format", "onnx")
    name, _ = FILES[precision]
    config, tokenizer, int8 = model.config, model.tokenizer, precision == "int8"
    with new_folder(output) as folder:
        (folder / "onnx").mkdir()
        tensors = read_tensors(model.checkpoint, config, int8)
        files = write_graph(build_graph(config, int8), tensor_types(config, int8), tensors, folder / "onnx" / name)
        texts = describe(config, tokenizer.end_of_text, complete(model, precision, files))
        if jinja := find_chat_jinja(model):
            texts[JINJA] = jinja
        contents = tokenizer.list_files(for_transformers=True) | {file: text.encode() for file, text in texts.items()}
        for file, content in contents.items():
            (folder / file).write_bytes(content)


def complete(model: OpenedModel, precision: str, files: int) -> TransformersSettings:
    """What transformers keeps of a model, with what else transformers.js must know.

    files: the number of files for tensors beside the graph's.
    """
    name, dtype = FILES[precision]
    own = {"dtype": dtype} | ({"use_external_data_format": {name: files}} if files else {})
    undrawn = model.tokenizer.undrawn(model.config.n_vocab).tolist()
    kept = model.transformers_settings
    return TransformersSettings(
        {**kept.config, "transformers.js_config": own},
        {**kept.generation, **({"suppress_tokens": undrawn} if undrawn else {})},
    )


def read_logits(output: Path) -> LogitsOf:
    """The model of an exported folder in ONNX Runtime, on the CPU.

    Raises ImportError if ONNX Runtime is not installed.
    """
    import onnxruntime

    path = next(output / "onnx" / name for name, _ in FILES.values() if (output / "onnx" / name).is_file())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    empty = {x.name: np.zeros((1, x.shape[1], 0, x.shape[3]), "float32") for x in session.get_inputs()[3:]}

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        cache, end = empty, 0
        for new in split_steps(np.asarray(ids, "int64"), steps):
            begin, end = end, end + len(new)
            inputs = {"input_ids": new[None], "attention_mask": np.ones((1, end), "int64")}
            inputs["position_ids"] = np.arange(begin, end)[None]
            following, *caches = session.run(None, inputs | cache)
            cache = dict(zip(empty, caches, strict=True))
            yield following[0]

    return logits_of
