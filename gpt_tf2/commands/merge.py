"""`merge`: a model and its LoRA adapters to one checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.adapters import Adapters
from gpt_tf2.checkpoints.beside import OF_MODEL, OF_VOCABULARY
from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.formats import check_format, locate, locate_base, open_adapters, try_to_locate
from gpt_tf2.checkpoints.hub import is_on_hub
from gpt_tf2.checkpoints.opened import OpenedModel, load_model, open_model, save_model
from gpt_tf2.commands.find_model import find_model_and_base, find_model_path, find_on_machine
from gpt_tf2.commands.merge_settings import MergeSettings
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    from gpt_tf2.model import GPT2

TOKENS = 16  # whose logits are compared
BESIDE = (*OF_VOCABULARY, *OF_MODEL)


def merge(settings: MergeSettings) -> tuple[Path, float]:
    """Writes the merged checkpoint with the vocabulary and the chat template beside it.

    Returns its path, and the largest difference of its logits from those of the base with the adapters beside it.

    Raises InputError if the first file holds no adapters, or if the second cannot be written or would replace what it
    is made from.
    """
    output = Path(settings.output)
    check_format(output)
    if is_on_hub(settings.adapters):
        path = find_model_path(settings.adapters, settings.offline, settings.base)
    else:
        path = find_on_machine(settings.adapters) or Path(settings.adapters)
    located = locate(path)
    held = open_adapters(located)
    if held is None:
        raise InputError(
            f"{path}: holds no adapters: give a file written by finetune with `lora_rank`, or peft's folder"
        )
    _, base = find_model_and_base(str(located), settings.base, settings.offline)
    model = open_model(located, base=base)
    check_replaced(output, model, locate_base(held, base))
    if model.remark:
        print_to_stderr(model.remark)
    start_backend()
    merged = model.load()
    replaces = try_to_locate(str(output)) is not None
    save_model(merged, output, model.tokenizer, model.settings_for(output))
    save_chat_template(model.chat_template, model.tokenizer, output, replaces)
    logits = compute_logits(merged)
    del merged  # before the base is read: a model may fill the memory
    return output, measure_difference(held, model, locate_base(held, base), logits)


def check_replaced(output: Path, model: OpenedModel, base: Path) -> None:
    """Raises InputError if a merged checkpoint would replace its adapters or their base, or be taken for the base."""
    written = output if output.suffix else output / "model.ckpt"
    files = {Path(f"{written}{end}").resolve() for end in ("", ".index")}
    if files & {source.resolve() for source in model.sources}:
        raise InputError("would replace what it is made from: choose another name", "output", output)
    if companion_folder(written).resolve() == companion_folder(base).resolve():
        raise InputError(f"would share a folder with the base, {base}: choose another name", "output", output)


def list_beside(output: Path) -> list[str]:
    """The names of the files that belong to a merged checkpoint and are not the checkpoint."""
    return [name for name in BESIDE if (companion_folder(output) / name).is_file()]


def measure_difference(adapters: Adapters, model: OpenedModel, base: Path, merged: np.ndarray) -> float:
    """The largest difference of merged logits from those of the base with the adapters beside its matrices."""
    from gpt_tf2.training.lora import load_adapters

    network = load_model(base, model.config)
    load_adapters(network, adapters)
    return float(np.abs(compute_logits(network) - merged).max())


def compute_logits(network: "GPT2") -> np.ndarray:
    """The logits of a few tokens, spread over the vocabulary: [1, T, V]."""
    config = network.config
    tokens = np.linspace(0, config.n_vocab - 1, min(TOKENS, config.n_ctx)).astype("int32")
    return np.asarray(network(tokens[None]))


def print_merge(settings: MergeSettings) -> None:
    """Merges, and prints the path of the checkpoint; on stderr what lies beside it, and how exact it is."""
    output, difference = merge(settings)
    folder, names = companion_folder(output), list_beside(output)
    print_to_stderr(f"saved {output}, and in {folder}/ what belongs to it: {', '.join(names)}")
    print_to_stderr(f"largest logit difference between base + adapters and the merged model: {difference:.2g}")
    print(output)
