"""Choosing a model's decoder.

On a CPU that is our own kernels where the processor has the instructions, else LiteRT, both from a conversion that is
kept beside the checkpoint. Elsewhere it is the Keras graph.
"""

import dataclasses
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
from gpt_tf2.config import GPT2Config
from gpt_tf2.data.held_out import TOKENS, read_held_out
from gpt_tf2.data.reference_text import read_reference_text
from gpt_tf2.decoding.conversion import DRAFT, Perplexities, open_conversion
from gpt_tf2.decoding.decoder import NO_IDS, Decoder, warm_up
from gpt_tf2.decoding.sample_perplexity import cut_windows, decode_windows, measure_perplexity, stream_windows
from gpt_tf2.errors import InputError
from gpt_tf2.tokenizer import Tokenizer

HIGH_COST = 0.02  # of the perplexity, from which on int8 comes with a warning

Say = Callable[[str], None]  # shows a line
Show = Callable[[int, int | None], None]  # shows how much is done, and of how much


def choose_engine(engine: str, quantize: str | None, precision: str = "auto") -> str:
    """The engine asked for: native, litert or graph. For auto, what suits the machine: graph, or cpu for either other.

    Raises InputError if it cannot run here, or cannot compute in the precision asked for.
    """
    if quantize and precision != "auto":
        raise InputError(f"contradicts `quantize` {quantize}: leave one out", "precision", precision)
    asked = engine
    if engine == "auto":
        engine = "graph" if has_gpu() or find_backend() == "jax" else "cpu"
    if engine != "graph" and precision == "bfloat16":
        raise InputError("only in the Keras graph: leave it out, or set `engine` to graph", "precision", precision)
    if engine == "graph" and quantize:
        jax = "unset KERAS_BACKEND and " if requested_backend() == "jax" else ""
        raise InputError(f"not in the Keras graph: leave it out, or {jax}set `engine` to litert", "quantize", quantize)
    if asked in ("native", "litert"):
        if requested_backend() == "jax":
            message = "does not run beside JAX, but KERAS_BACKEND=jax is set: unset it, or leave `engine` out"
            raise InputError(message, "engine", asked)
        os.environ["KERAS_BACKEND"] = "tensorflow"  # for all else in this process, also where JAX has a GPU
    return engine


def open_decoder(
    model: OpenedModel, engine: str, precision: str, say: Say, show: Show, drafts: bool = False
) -> Decoder:
    """The decoder of a model, which is converted first if its engine needs that.

    Args:
        engine: of `choose_engine`.
        precision: float32; also bfloat16 for the graph, int8 for the others; auto: bfloat16 on a GPU, else float32.
        say: is called with lines to show; show: with the number of blocks converted.
        drafts: whether to give the decoder a drafter where one pays: to our own kernels in float32 the same in int8.

    Raises InputError if the checkpoint is damaged, if the conversion cannot be written, or if the processor lacks what
    the engine needs.
    """
    if model.remark:
        say(model.remark)
    if engine == "graph":
        device = start_backend()
        from gpt_tf2.decoding.keras_graph import GraphDecoder

        if precision == "auto":
            precision = "bfloat16" if runs_on_gpu() and has_fast_bfloat16() else "float32"
        undrawn = model.tokenizer.undrawn(model.config.n_vocab)
        return GraphDecoder(model.load(precision=precision, held=precision), device, undrawn)
    if precision == "auto":
        precision = "float32"
    converter = find_converter(model, engine, precision)
    decoder = open_kept(model, converter, precision, lambda folder: convert(model, converter, folder, say, show), say)
    if drafts and has_drafter(model.config, engine, precision):
        faster = native_converter(model, "int8")
        decoder.drafter = open_kept(model, faster, DRAFT, lambda folder: faster.write(folder, show), say)
    return decoder


def has_drafter(config: GPT2Config, engine: str, precision: str) -> bool:
    """Whether `open_decoder` can give a decoder a drafter."""
    from gpt_tf2.decoding.native.packing import runs_natively

    return engine in ("cpu", "native") and precision in ("auto", "float32") and runs_natively(config)


def open_kept(
    model: OpenedModel, converter: "Converter", precision: str, build: Callable[[Path], Perplexities | None], say: Say
) -> Decoder:
    """The decoder of a kept conversion, which is built first if there is none; see `open_conversion`."""
    began = time.monotonic()
    with open_conversion(
        model,
        converter.engine,
        precision,
        build,
        on_wait=lambda: say(f"{model.path}: another process is converting or opening it: waiting"),
    ) as conversion:
        if conversion.is_new:
            say(f"{conversion.folder}: converted in {time.monotonic() - began:.0f} s")
        if conversion.perplexity:
            for line in describe_int8(*conversion.perplexity):
                say(line)
        return converter.open(conversion.folder, model.tokenizer.undrawn(model.config.n_vocab))


@dataclasses.dataclass(frozen=True)
class Converter:
    """What an engine does with a model, at one precision.

    engine: native or litert.
    write: writes a conversion to a folder. Takes a function to call with the number of blocks done, and in all.
    open: opens a conversion: a folder, and the ids without a token.
    """

    engine: str
    precision: str
    write: Callable[[Path, Show], None]
    open: Callable[[Path, np.ndarray], Decoder]


def find_converter(model: OpenedModel, engine: str, precision: str) -> Converter:
    """The converter of an engine: native, litert, or cpu for native where it runs, else litert.

    Raises InputError if native is asked for and does not run here.
    """
    from gpt_tf2.decoding.native.packing import runs_natively

    if engine == "litert" or (engine == "cpu" and not runs_natively(model.config)):
        return litert_converter(model, precision)
    if not runs_natively(model.config):
        message = "needs a processor with AVX-512 VNNI, and heads of 16 to 256 channels: leave it out"
        raise InputError(message, "engine", engine)
    return native_converter(model, precision)


def native_converter(model: OpenedModel, precision: str) -> Converter:
    """The converter of our own kernels."""
    from gpt_tf2.decoding.native.compiling import compile_meanwhile
    from gpt_tf2.decoding.native.decoder import NativeDecoder
    from gpt_tf2.decoding.native.packing import convert

    checkpoint, config = model.checkpoint, model.config

    def write(folder: Path, show: Show) -> None:
        with compile_meanwhile(precision):
            convert(checkpoint, config, folder, precision, show)

    return Converter(
        "native",
        precision,
        write,
        lambda folder, undrawn: NativeDecoder(folder, config, precision, undrawn),
    )


def litert_converter(model: OpenedModel, precision: str) -> Converter:
    """LiteRT's converter."""
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder
    from gpt_tf2.decoding.litert.graphs import convert

    checkpoint, config = model.checkpoint, model.config
    return Converter(
        "litert",
        precision,
        lambda folder, show: convert(checkpoint, config, folder, precision == "int8", show),
        lambda folder, undrawn: LiteRTDecoder(folder, config, precision, undrawn),
    )


def convert(model: OpenedModel, converter: Converter, folder: Path, say: Say, show: Show) -> Perplexities | None:
    """Convert a model into a folder. Returns what int8 costs, or None for float32."""
    converter.write(folder, show)
    decoder = converter.open(folder, NO_IDS)
    warm_up(decoder)
    if converter.precision != "int8":
        return None
    windows = cut_windows(read_sample(model, say), model.config.n_ctx)
    exact = measure_perplexity(stream_windows(model.config, model.checkpoint.read, windows), windows)
    return exact, measure_perplexity(decode_windows(decoder, windows), windows)


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
