"""Which decoder runs a model: LiteRT on a CPU, from a conversion kept beside the checkpoint, or the Keras graph."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.backend.hardware import has_gpu
from gpt_tf2.backend.starting import start
from gpt_tf2.checkpoints import Checkpoint, find_config, find_tokenizer, home, locate, open_checkpoint, read_model
from gpt_tf2.commands.progress import Counter
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.litert import conversion
from gpt_tf2.decoding.sample_perplexity import measure_perplexity
from gpt_tf2.errors import InputError
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.commands.model_settings import ModelSettings
    from gpt_tf2.decoding.decoder import Decoder

SAMPLE = "validation.npy"  # tokens that a fine-tuned model did not see, in its home
SAMPLED = 1024  # tokens whose perplexity tells what int8 costs
TOO_MUCH = 0.02  # of the perplexity

Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Shows a line where it is no part of what is written."""
    print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that is not loaded yet.

    path: its file or prefix. config: its hyper-parameters. engine: litert or graph.
    checkpoint: opened, unless the conversion is there.
    """

    path: Path
    config: GPT2Config
    engine: str
    settings: "ModelSettings"
    checkpoint: Checkpoint | None
    conversion: conversion.Conversion | None

    @property
    def precision(self) -> str:
        """Of LiteRT's engine."""
        return self.settings.quantize or "float32"

    def opened(self) -> Checkpoint:
        return self.checkpoint or open_checkpoint(self.path)

    def tokenizer(self) -> Tokenizer:
        return find_tokenizer(self.path, self.config, self.settings.json_encoder, self.settings.vocab_bpe)

    def check_room(self) -> None:
        """Raises InputError if what is to be written leaves no room for a prompt."""
        if self.settings.output_length >= self.config.n_ctx:
            where = f"--output_length {self.settings.output_length}: leaves no room in n_ctx {self.config.n_ctx}"
            raise InputError(f"{where} of {self.path}: shorten it")


def find_source(settings: "ModelSettings") -> Source:
    """Finds a model and its engine, without TensorFlow where the model has been converted.

    Raises InputError if there is no such model, or the engine cannot run here.
    """
    engine = find_engine(settings.engine, settings.quantize)
    path, precision = locate(settings.model_path), settings.quantize or "float32"
    kept = conversion.find(path, settings.json_hparams, precision) if engine == "litert" else None
    if kept:
        return Source(path, kept.config, engine, settings, None, kept)
    checkpoint = open_checkpoint(path)
    return Source(path, find_config(checkpoint, settings.json_hparams), engine, settings, checkpoint, None)


def find_engine(engine: str, quantize: str | None) -> str:
    """The engine that `--engine` names, or that suits the machine. Raises InputError if it cannot run here."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if engine == "litert" and backend == "jax":
        raise InputError("--engine litert: converts with TensorFlow, not with KERAS_BACKEND=jax: unset one of them")
    if engine == "auto":
        engine = "graph" if backend == "jax" or has_gpu() else "litert"
    if engine == "graph" and quantize:
        where = "KERAS_BACKEND=jax" if backend == "jax" else "the Keras graph"
        raise InputError(
            f"--quantize {quantize}: only LiteRT has it, not {where}: leave it out, or give --engine litert"
        )
    return engine


def open_decoder(source: Source, say: Say) -> "Decoder":
    """Loads a model, and converts it first if its engine needs that.

    say: is called with lines to show.

    Raises InputError if the checkpoint is damaged, or the conversion cannot be written.
    """
    if source.engine == "graph":
        device = start()
        from gpt_tf2.decoding.keras_graph import GraphDecoder

        return GraphDecoder(read_model(source.opened(), source.config), device)
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    kept = source.conversion or convert(source, say)
    if kept.perplexity:
        for line in about_int8(*kept.perplexity):
            say(line)
    return LiteRTDecoder(kept.folder, kept.config, source.precision)


def convert(source: Source, say: Say) -> conversion.Conversion:
    """Converts a checkpoint for LiteRT, once."""
    checkpoint, config = source.opened(), source.config
    start()
    from gpt_tf2.decoding.litert.attention import compile_for
    from gpt_tf2.decoding.litert.graphs import convert as write_graphs

    began = time.monotonic()
    quantized = source.precision == "int8"

    def write(folder: Path) -> tuple[float, float] | None:
        with Counter("converting for LiteRT, once", "blocks", stderr=True) as counter:
            write_graphs(checkpoint, config, folder, quantized, counter.show)
            compile_for(source.precision)
        return perplexities(source, folder) if quantized else None

    kept = conversion.keep(source.path, source.settings.json_hparams, source.precision, config, write)
    say(f"{kept.folder}: converted in {time.monotonic() - began:.0f} s")
    return kept


def perplexities(source: Source, folder: Path) -> tuple[float, float]:
    """The perplexity of a sample, in float32 and in int8."""
    from gpt_tf2.decoding.keras_graph import GraphDecoder
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    ids = sample_of(source)
    decoders: list[Decoder] = [
        GraphDecoder(read_model(source.opened(), source.config)),
        LiteRTDecoder(folder, source.config, source.precision),
    ]
    exact, quantized = (measure_perplexity(decoder, ids) for decoder in decoders)
    return exact, quantized


def sample_of(source: Source) -> np.ndarray:
    """Tokens to measure on: the model's own validation text, or Python's language reference."""
    own = home(source.path) / SAMPLE
    if own.is_file():
        return np.load(own)[:SAMPLED]
    from gpt_tf2.commands.demo import reference_text

    return np.array(source.tokenizer().encode(reference_text()[-8 * SAMPLED :])[:SAMPLED])


def about_int8(exact: float, quantized: float) -> list[str]:
    """Lines on what int8 costs."""
    change = quantized / exact - 1
    lines = [f"int8 changes the perplexity of a sample by {change:+.2%}, {exact:.4g} in float32"]
    if change > TOO_MUCH:
        lines.append(f"warning: that is above {TOO_MUCH:.0%}; leave --quantize out for the exact model")
    return lines
