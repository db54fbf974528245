"""LiteRT: one `.tflite` file for phones, with a cache, and with the vocabulary in it."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import flatbuffers
import numpy as np

from gpt_tf2.backend.int8 import quantize
from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.checkpoints.chat_templates import JINJA
from gpt_tf2.checkpoints.huggingface import describe
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.exporting.chat_jinja import find_chat_jinja
from gpt_tf2.exporting.litert_graph import build_model, is_matrix, stored_shapes
from gpt_tf2.exporting.litert_operators import Scales
from gpt_tf2.exporting.proof import LogitsOf, split_steps
from gpt_tf2.storage.files import atomic_write

ALIGNMENT = 16  # bytes


def write(model: OpenedModel, output: Path, precision: str) -> None:
    """Writes a model as a LiteRT file with the signatures of `build_model`. The memory holds one tensor at a time.

    The file is a ZIP archive as well, of the vocabulary, the hyper-parameters and, for chats, the chat template.

    Args:
        precision: float32 or int8. In int8 each matrix has a scale per output, and each token is rounded by itself.

    Raises InputError if the checkpoint is damaged, or if the file cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M.tflite"), "int8")  # doctest: +SKIP
    """
    scales = measure_scales(model) if precision == "int8" else {}
    with atomic_write(output) as temporary:
        with temporary.open("wb") as file:
            write_model(file, model, scales)
        with zipfile.ZipFile(temporary, "a") as archive:  # behind the model, where LiteRT does not look
            for name, content in list_files(model).items():
                entry = zipfile.ZipInfo(name)  # of no time, so that the same model gives the same bytes
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, content)


def list_files(model: OpenedModel) -> dict[str, bytes | str]:
    """The contents of the files beside the network, by their names, which are transformers'."""
    tokenizer, jinja = model.tokenizer, find_chat_jinja(model)
    texts = describe(model.config, tokenizer.end_of_text, model.transformers_settings)
    return {**tokenizer.list_files(for_transformers=True), **texts, **({JINJA: jinja} if jinja else {})}


def measure_scales(model: OpenedModel) -> Scales:
    """The scale of each output of each matrix."""
    return {name: scale for name, _, scale in read_tensors(model, int8=True) if scale is not None}


def read_tensors(model: OpenedModel, int8: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """The tensors one by one: the name, the values as they are stored, and if these are int8 their scales."""
    for name in stored_shapes(model.config):
        values = model.checkpoint.read(name)
        values = values.T if name.endswith("/w") else values
        if int8 and is_matrix(name):
            rounded, scale = quantize(values.T)
            yield name, rounded.T, scale
        else:
            yield name, values, None


def write_model(file: IO[bytes], model: OpenedModel, scales: Scales) -> None:
    """Writes the graphs, then the tensors: in the graphs a FlatBuffer would hold them in memory, and 2 GB at most."""
    graphs, numbers = build_model(model.config, scales)
    buffers = {name: graphs.buffers[number] for name, number in numbers.items()}
    for name, shape in stored_shapes(model.config).items():
        buffers[name].offset, buffers[name].size = 2, math.prod(shape) * (1 if name in scales else 4)
    end = len(pack(graphs))  # which depends on no offset, if none is 0 or 1
    for buffer in buffers.values():
        buffer.offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = buffer.offset + buffer.size
    file.write(pack(graphs))
    for name, stored, _ in read_tensors(model, int8=bool(scales)):
        file.write(bytes(buffers[name].offset - file.tell()))
        file.write(np.ascontiguousarray(stored).data)


def pack(model: Any) -> bytes:
    """The FlatBuffer of a model."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_logits(output: Path) -> LogitsOf:
    """Opens a file in LiteRT, on the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    with silence_stderr():  # it reports on stderr that it chose XNNPACK
        interpreter = Interpreter(str(output))
        interpreter.allocate_tensors()
    prefill, decode = (interpreter.get_signature_runner(name) for name in ("prefill", "decode"))
    shapes = {name: details["shape"] for name, details in prefill.get_input_details().items()}
    chunk, caches = shapes["tokens"][1], [name for name in shapes if name.startswith("kv_cache")]

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        cache, end = {name: np.zeros(shapes[name], "float32") for name in caches}, 0
        for new in split_steps(np.asarray(ids, "int32"), steps, chunk):
            begin, end = end, end + len(new)
            run, padding = (prefill, (0, chunk - len(new))) if end <= len(ids) - steps else (decode, (0, 0))
            positions = np.arange(begin, end, dtype="int32")
            cache = run(tokens=np.pad(new, padding)[None], input_pos=np.pad(positions, padding), **cache)
            yield cache.pop("logits")[0, : len(new)]

    return logits_of
