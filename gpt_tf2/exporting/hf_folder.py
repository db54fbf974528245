"""A folder in Hugging Face's format, for transformers, vLLM, text-generation-inference and their like."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.exporting.checkpoint_folder import write_folder
from gpt_tf2.exporting.proof import LogitsOf, split_steps


def write(model: OpenedModel, output: Path, precision: str) -> None:
    """Writes `model.safetensors`, `config.json`, the tokenizer and, for chats, `chat_template.jinja` into a new folder.

    Raises InputError if the folder is there already, or if a file cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M-hf"), "float32")  # doctest: +SKIP
    """
    write_folder(model, output, "model.safetensors")


def read_logits(output: Path) -> LogitsOf:
    """Opens a folder in transformers. Raises ImportError if it or torch is not installed."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    network = AutoModelForCausalLM.from_pretrained(output, local_files_only=True).eval()

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        cache = DynamicCache()  # which the network fills; versions differ in the argument's name, not in its place
        for new in split_steps(ids, steps):
            with torch.no_grad():
                part = network(torch.tensor(new)[None], cache, use_cache=True)
            yield part.logits[0].numpy()

    return logits_of
