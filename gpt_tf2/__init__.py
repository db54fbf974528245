"""GPT-2 in TensorFlow 2 (Keras 3): fine-tune, generate and score on a single GPU.

The names in `__all__` are the public API, together with `gpt_tf2.errors` and what docs/tasks.md names. Everything else
is private and may change. A name is imported on first use, as importing TensorFlow takes seconds.

Example:
    >>> from gpt_tf2 import finetune  # doctest: +SKIP
    >>> finetune("book.txt", model="124M", output="book.h5").path  # doctest: +SKIP
    PosixPath('output/book.h5')
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_tf2.api import FinetuneResult, evaluate, finetune
    from gpt_tf2.checkpoints.opened import load_model, save_model
    from gpt_tf2.config import GPT2Config
    from gpt_tf2.data.keras_batches import open_batches
    from gpt_tf2.errors import InputError
    from gpt_tf2.language_model import LanguageModel, load
    from gpt_tf2.model import GPT2
    from gpt_tf2.tokenizer import Tokenizer
    from gpt_tf2.training.optimizers import make_optimizer
    from gpt_tf2.training.trainer import make_trainer

__version__ = "0.1.0"

__all__ = [
    "GPT2",
    "FinetuneResult",
    "GPT2Config",
    "InputError",
    "LanguageModel",
    "Tokenizer",
    "__version__",
    "evaluate",
    "finetune",
    "load",
    "load_model",
    "make_optimizer",
    "make_trainer",
    "open_batches",
    "save_model",
]

MODULES = {
    "FinetuneResult": "api",
    "GPT2": "model",
    "GPT2Config": "config",
    "InputError": "errors",
    "LanguageModel": "language_model",
    "Tokenizer": "tokenizer",
    "evaluate": "api",
    "finetune": "api",
    "load": "language_model",
    "load_model": "checkpoints.opened",
    "make_optimizer": "training.optimizers",
    "make_trainer": "training.trainer",
    "open_batches": "data.keras_batches",
    "save_model": "checkpoints.opened",
}

ON_KERAS = ("GPT2", "make_optimizer", "make_trainer", "open_batches")  # their modules import it


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module gpt_tf2 has no attribute {name}")
    if name in ON_KERAS:  # all other names start its backend when they need it
        importlib.import_module("gpt_tf2.backend.starting").start_backend()
    return getattr(importlib.import_module(f"gpt_tf2.{MODULES[name]}"), name)
