"""The commands as Python functions, with settings as keywords."""

from typing import Any

from gpt_tf2.commands.flags import make_settings
from gpt_tf2.tasks.task import Scores


def finetune(data: Any, model: Any = "124M", **settings: Any) -> Any:
    """Fine-tunes a model."""
    from gpt_tf2.commands.finetune import run_finetune
    from gpt_tf2.commands.finetune_settings import FinetuneSettings

    return run_finetune(make_settings(FinetuneSettings, {"data": data, "model": model, **settings}))


def evaluate(data: Any, model: Any = "124M", **settings: Any) -> Scores:
    """Scores a model on a task, or measures its perplexity on a text."""
    from gpt_tf2.commands.evaluate import EvaluateSettings, run_evaluate

    return run_evaluate(make_settings(EvaluateSettings, {"data": data, "model": model, **settings}))
