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
    from gpt_tf2.errors import InputError
    from gpt_tf2.model import GPT2
    from gpt_tf2.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "GPT2",
    "FinetuneResult",
    "GPT2Config",
    "InputError",
    "Tokenizer",
    "__version__",
    "evaluate",
    "finetune",
    "load_model",
    "save_model",
]

MODULES = {
    "FinetuneResult": "api",
    "GPT2": "model",
    "GPT2Config": "config",
    "InputError": "errors",
    "Tokenizer": "tokenizer",
    "evaluate": "api",
    "finetune": "api",
    "load_model": "checkpoints.opened",
    "save_model": "checkpoints.opened",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module gpt_tf2 has no attribute {name}")
    if name == "GPT2":  # a class of Keras; all other names start its backend when they need it
        importlib.import_module("gpt_tf2.backend.starting").start_backend()
    return getattr(importlib.import_module(f"gpt_tf2.{MODULES[name]}"), name)
