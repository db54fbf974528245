"""GGUF: one file with the weights and the vocabulary, for llama.cpp and what is built on it, such as Ollama."""

import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_tf2.checkpoints.gguf_names import gguf_name, is_transposed
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.reference import PART
from gpt_tf2.errors import InputError
from gpt_tf2.exporting.chat_jinja import find_chat_jinja
from gpt_tf2.exporting.gguf_vocabulary import to_gguf
from gpt_tf2.exporting.proof import LogitsOf, split_steps
from gpt_tf2.storage.files import atomic_write

if TYPE_CHECKING:
    import gguf

# A precision → llama.cpp's names: of a tensor's numbers, and of a file.
KINDS = {"float32": ("F32", "ALL_F32"), "float16": ("F16", "MOSTLY_F16"), "q8_0": ("Q8_0", "MOSTLY_Q8_0")}
BLOCK = 32  # numbers of a row that share a scale in q8_0


def write(model: OpenedModel, output: Path, precision: str) -> None:
    """Writes a model as a GGUF file. The memory holds one tensor at a time.

    As in llama.cpp's own files, vectors and the position embedding stay float32, and with q8_0 matrices whose rows are
    no multiple of 32 numbers become float16.

    Args:
        precision: float32, float16 or q8_0.

    Raises InputError if the package gguf is missing, if llama.cpp has no such vocabulary, if numbers are too large for
    float16, or if the file cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M.gguf"), "q8_0")  # doctest: +SKIP
    """
    try:
        import gguf
    except ImportError:
        raise InputError("needs the package gguf: run pip install '.[gguf]'", "format", "gguf") from None
    with atomic_write(output) as temporary:
        writer = gguf.GGUFWriter(temporary, "gpt2")
        try:
            describe(writer, model, output.stem, precision)
            write_tensors(writer, model, precision)
        finally:
            writer.close()


def describe(writer: "gguf.GGUFWriter", model: OpenedModel, name: str, precision: str) -> None:
    """Adds what a file says beside its tensors: hyper-parameters, vocabulary and chat template."""
    import gguf

    config, tokenizer = model.config, model.tokenizer
    writer.add_type("model")
    writer.add_name(name)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType[KINDS[precision][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tokens, kinds, merges = to_gguf(tokenizer, config.n_vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_add_bos_token(False)
    if jinja := find_chat_jinja(model):
        writer.add_chat_template(jinja)


def write_tensors(writer: "gguf.GGUFWriter", model: OpenedModel, precision: str) -> None:
    """Writes the header and the tensors.

    Raises InputError if the checkpoint is damaged, or if a number is too large for float16.
    """
    import gguf

    planned = plan_tensors(model.config, precision)
    kinds = {name: gguf.GGMLQuantizationType[kind] for name, (_, kind) in planned.items()}
    for name, (shape, _) in planned.items():
        size = int(np.prod(gguf.quant_shape_to_byte_shape(shape, kinds[name])))
        writer.add_tensor_info(gguf_name(name), shape, np.dtype("float32"), size, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, kind in kinds.items():
        values = model.checkpoint.read(name)
        values = np.ascontiguousarray(values.T) if is_transposed(name) else values
        with np.errstate(over="ignore"):
            stored = gguf.quantize(values, kind)
        if stored.dtype == "float16" and not np.isfinite(stored).all():
            raise InputError(f"too small a range for tensor {name}: use float32", "precision", precision)
        writer.write_tensor_data(stored)


def plan_tensors(config: GPT2Config, precision: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and the kind of numbers that each tensor has in a file, by OpenAI's names.

    Example:
        >>> plan_tensors(SIZES["124M"], "q8_0")["h0/attn/c_attn/w"]
        ((2304, 768), 'Q8_0')
    """
    planned = {}
    for name, shape in tensor_shapes(config).items():
        shape = shape[::-1] if is_transposed(name) else shape
        kind = KINDS[precision][0]
        if len(shape) == 1 or name == "wpe":
            kind = "F32"
        elif precision == "q8_0" and shape[-1] % BLOCK:
            kind = "F16"
        planned[name] = shape, kind
    return planned


@functools.cache  # which keeps the function that llama.cpp calls
def silence_llama_cpp() -> Any:
    """Ends llama.cpp's messages: it warns of each context below 256 tokens, and `verbose` does not stop it."""
    import llama_cpp

    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    return callback


def read_logits(output: Path) -> LogitsOf:
    """Opens a GGUF file in llama.cpp, with keys and values in float32.

    Raises ImportError if llama-cpp-python is not installed, and ValueError if llama.cpp does not open the file.
    """
    import llama_cpp

    silence_llama_cpp()
    float32 = llama_cpp.GGML_TYPE_F32
    llama = llama_cpp.Llama(
        str(output), n_ctx=0, n_batch=PART, logits_all=True, type_k=float32, type_v=float32, verbose=False
    )

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        llama.reset()
        for new in split_steps(ids, steps):
            llama.eval(new.tolist())
            logits = llama.scores[llama.n_tokens - len(new) : llama.n_tokens].copy()
            llama.scores = np.empty_like(llama.scores)  # the old array filled up with each token's logits
            yield logits

    return logits_of
