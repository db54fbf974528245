"""`serve`: models behind OpenAI's API."""

import contextlib
import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.backend.memory import measure_device_memory, measure_free_memory
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.commands.decoders import find_model, load_decoder
from gpt_tf2.commands.find_model import name_model
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.commands.recipes import read_run
from gpt_tf2.commands.serve_settings import ServeSettings
from gpt_tf2.commands.server_settings import missing_package
from gpt_tf2.decoding.engine import has_drafter
from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    from gpt_tf2.serving.models import Models, Served

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of a weight


def run_serve(settings: ServeSettings) -> None:
    """Serves models until SIGTERM or Ctrl-C. Prints the address once it answers.

    Raises InputError if a model or the address is bad, or a package is missing.
    """
    try:
        from gpt_tf2.serving.app import Limits, make_app
        from gpt_tf2.serving.prompt_log import PromptLog
        from gpt_tf2.serving.server import Server, describe_address, listen
    except ModuleNotFoundError as error:
        raise missing_package(error, "serve") from None
    api_key, local = settings.find_key(), settings.check_address()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each client that left
    listening = listen(settings.host, settings.port)  # first: loading takes a while
    with listening, contextlib.ExitStack() as opened:
        log = None
        if settings.log_prompts is not None:
            log = opened.enter_context(contextlib.closing(PromptLog(Path(settings.log_prompts))))
        models = open_models(settings)
        models.load_first()
        app = make_app(models, Limits(int(settings.max_body * 1e6), settings.timeout), api_key, local, log)
        address = describe_address(listening)

        def announce() -> None:
            names = ", ".join(models.served)
            to_everyone = "" if local or api_key else ", for everyone"
            logging_to = "" if log is None else f", logging prompts and answers to {settings.log_prompts}"
            print(f"serving {names} at {address}{to_everyone}{logging_to}", flush=True)

        try:
            Server(app, settings.drain, announce).run([listening])
        finally:
            models.close()


def open_models(settings: ServeSettings) -> "Models":
    """The models of the settings, none of them loaded yet.

    Raises InputError if one is bad, if two have one name, or if one alone is larger than `memory`.
    """
    from gpt_tf2.serving.models import Models

    served: dict[str, Served] = {}
    engines = set()
    for model in settings.model:
        name = name_model(model)
        if name in served:
            raise InputError(f"two models are called {name}: rename one", "model", ",".join(settings.model))
        served[name], engine = open_served(settings, model, name)
        engines.add(engine)
    memory = measure_memory(engines) if settings.memory is None else settings.memory * 1e9
    if settings.memory is not None:
        check_memory(list(served.values()), settings.memory)
    return Models(served, settings.batch_size, settings.queue, memory, settings.draft == "on")


def open_served(settings: ServeSettings, model: str, name: str) -> "tuple[Served, str]":
    """A model as it is served, and its engine."""
    from gpt_tf2.serving.models import Served, count_bytes

    own = settings.of_model(model)
    opened, engine = find_model(own)
    precision = settings.quantize or settings.precision
    size = count_bytes(opened.config, BYTES.get(precision, 4), settings.batch_size)
    if settings.draft != "off" and has_drafter(opened.config, engine, precision):
        size += count_bytes(opened.config, BYTES["int8"], settings.batch_size)
    load = functools.partial(load_decoder, own, opened, engine, print_to_stderr)
    return Served(name, opened, load, size, has_learned_coqa(opened)), engine


def has_learned_coqa(model: OpenedModel) -> bool:
    """Whether the run that made a model trained it on CoQA, by the recipe that every run leaves."""
    return read_run(model.path).get("task") == "coqa"


def measure_memory(engines: "set[str]") -> float:
    """The bytes that models may take."""
    if "graph" not in engines:
        return measure_free_memory() or math.inf
    start_backend()
    return measure_device_memory() or math.inf


def check_memory(served: "Sequence[Served]", gigabytes: float) -> None:
    """Raises InputError if a model alone is too large."""
    largest = max(served, key=lambda one: one.size)
    if largest.size > gigabytes * 1e9:
        needs = f"{largest.name} needs {largest.size / 1e9:.3g} GB with its cache"
        raise InputError(f"{needs}: raise it, or lower `batch_size`", "memory", gigabytes)
