"""GPT-2 in TensorFlow 2 (Keras 3): fine-tune, generate and score on a single GPU.

Names are imported when first used: TensorFlow takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_tf2.checkpoints.opened import load_model, save_model
    from gpt_tf2.commands.evaluate import EvaluateSettings, evaluate
    from gpt_tf2.commands.finetune import finetune
    from gpt_tf2.commands.finetune_settings import FinetuneSettings
    from gpt_tf2.commands.generate import GenerateSettings, generate
    from gpt_tf2.config import GPT2Config
    from gpt_tf2.errors import InputError
    from gpt_tf2.model import GPT2
    from gpt_tf2.tokenizer import Tokenizer

__all__ = [
    "GPT2",
    "EvaluateSettings",
    "FinetuneSettings",
    "GPT2Config",
    "GenerateSettings",
    "InputError",
    "Tokenizer",
    "evaluate",
    "finetune",
    "generate",
    "load_model",
    "save_model",
]

MODULES = {
    "GPT2": "model",
    "EvaluateSettings": "commands.evaluate",
    "FinetuneSettings": "commands.finetune_settings",
    "GPT2Config": "config",
    "GenerateSettings": "commands.generate",
    "InputError": "errors",
    "Tokenizer": "tokenizer",
    "evaluate": "commands.evaluate",
    "finetune": "commands.finetune",
    "generate": "commands.generate",
    "load_model": "checkpoints.opened",
    "save_model": "checkpoints.opened",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module gpt_tf2 has no attribute {name}")
    return getattr(importlib.import_module(f"gpt_tf2.{MODULES[name]}"), name)
