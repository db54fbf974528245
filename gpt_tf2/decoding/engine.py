"""Choosing a model's decoder: LiteRT on a CPU, from a conversion kept beside the checkpoint, or the Keras graph."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_tf2.backend.choice import find_backend, requested_backend
from gpt_tf2.backend.hardware import has_fast_bfloat16, has_gpu, runs_on_gpu
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.data.held_out import TOKENS, read_held_out
from gpt_tf2.data.reference_text import read_reference_text
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.litert.conversion import Perplexities, open_conversion
from gpt_tf2.decoding.sample_perplexity import cut_windows, decode_windows, measure_perplexity
from gpt_tf2.errors import InputError
from gpt_tf2.tokenizer import Tokenizer

HIGH_COST = 0.02  # of the perplexity, from which on int8 comes with a warning

Say = Callable[[str], None]  # shows a line
Show = Callable[[int, int | None], None]  # shows how much is done, and of how much


def choose_engine(engine: str, quantize: str | None, precision: str = "auto") -> str:
    """`litert` or `graph`: the engine asked for, or for `auto` the one that suits the machine.

    Raises InputError if it cannot run here, or cannot compute in the precision asked for.
    """
    if quantize and precision != "auto":
        raise InputError(f"contradicts `quantize` {quantize}: leave one out", "precision", precision)
    asked = engine
    if engine == "auto":
        engine = "graph" if has_gpu() or find_backend() == "jax" else "litert"
    if engine == "litert" and precision == "bfloat16":
        raise InputError("not in LiteRT: leave it out, or set `engine` to graph", "precision", precision)
    if engine == "graph" and quantize:
        jax = "unset KERAS_BACKEND and " if requested_backend() == "jax" else ""
        raise InputError(f"needs LiteRT: leave it out, or {jax}set `engine` to litert", "quantize", quantize)
    if asked == "litert":
        if requested_backend() == "jax":
            message = "does not run beside JAX, but KERAS_BACKEND=jax is set: unset it, or leave `engine` out"
            raise InputError(message, "engine", "litert")
        os.environ["KERAS_BACKEND"] = "tensorflow"  # for all else in this process, also where JAX has a GPU
    return engine


def open_decoder(model: OpenedModel, engine: str, precision: str, say: Say, show: Show) -> Decoder:
    """The decoder of a model, which is converted first if its engine needs that.

    Args:
        engine: of `choose_engine`.
        precision: float32; also bfloat16 for the graph, int8 for LiteRT; auto: bfloat16 on a GPU, else float32.
        say: is called with lines to show; show: with the number of blocks converted.

    Raises InputError if the checkpoint is damaged, or the conversion cannot be written.
    """
    if model.remark:
        say(model.remark)
    undrawn = model.tokenizer.undrawn(model.config.n_vocab)
    if engine == "graph":
        device = start_backend()
        from gpt_tf2.decoding.keras_graph import GraphDecoder

        if precision == "auto":
            precision = "bfloat16" if runs_on_gpu() and has_fast_bfloat16() else "float32"
        return GraphDecoder(model.load(precision=precision, held=precision), device, undrawn)
    if precision == "auto":
        precision = "float32"
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    began = time.monotonic()
    with open_conversion(
        model,
        precision,
        lambda folder: convert(model, precision, folder, say, show),
        on_wait=lambda: say(f"{model.path}: another process is converting or opening it: waiting"),
    ) as conversion:
        if conversion.is_new:
            say(f"{conversion.folder}: converted in {time.monotonic() - began:.0f} s")
        if conversion.perplexity:
            for line in describe_int8(*conversion.perplexity):
                say(line)
        return LiteRTDecoder(conversion.folder, model.config, precision, undrawn)


def convert(model: OpenedModel, precision: str, folder: Path, say: Say, show: Show) -> Perplexities | None:
    """Convert a model for LiteRT into a folder. Returns what int8 costs, or None for float32."""
    from gpt_tf2.decoding.kernels.attention import compile_for
    from gpt_tf2.decoding.litert.graphs import convert as write_graphs

    write_graphs(model.checkpoint, model.config, folder, precision == "int8", show)
    compile_for(precision)
    return measure_int8(model, folder, say) if precision == "int8" else None


def measure_int8(model: OpenedModel, folder: Path, say: Say) -> Perplexities:
    """The perplexity of a sample in float32, and in int8 by the conversion in a folder."""
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder
    from gpt_tf2.decoding.litert.streaming import stream_windows

    windows = cut_windows(read_sample(model, say), model.config.n_ctx)
    exact = measure_perplexity(stream_windows(model.checkpoint, model.config, windows, folder), windows)
    return exact, measure_perplexity(decode_windows(LiteRTDecoder(folder, model.config, "int8"), windows), windows)


def read_sample(model: OpenedModel, say: Say) -> np.ndarray:
    """Tokens to measure on, [N]: those that the model's own run held out, or Python's language reference."""
    held_out, damage = read_held_out(companion_folder(model.path), model.config.n_vocab)
    if damage:
        say(damage)
    if held_out is not None:
        return held_out
    return encode_reference(model.tokenizer)


def encode_reference(tokenizer: Tokenizer) -> np.ndarray:
    """A sample of Python's language reference, [N]."""
    return np.array(tokenizer.encode(read_reference_text()[-8 * TOKENS :])[:TOKENS])


def describe_int8(exact: float, quantized: float) -> list[str]:
    """Lines on what int8 costs."""
    change = quantized / exact - 1
    lines = [f"int8 changes the perplexity of a sample by {change:+.2%} (float32: {exact:.4g})"]
    if change > HIGH_COST:
        lines.append(f"warning: more than {HIGH_COST:.0%}; run without int8 for the exact model")
    return lines
