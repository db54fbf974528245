"""The random network that `finetune --from_scratch` starts from."""

from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.checkpoints.added_tokens import describe_added
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.hub import is_on_hub
from gpt_tf2.checkpoints.opened import OpenedModel, stamp_files
from gpt_tf2.checkpoints.vocabularies import find_vocabulary
from gpt_tf2.commands.find_model import MODELS, find_model_path
from gpt_tf2.commands.finetune_settings import LENGTH, SHAPE, FinetuneSettings
from gpt_tf2.config import SIZES, GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np


def open_random_model(settings: FinetuneSettings) -> OpenedModel:
    """A model with GPT-2's initialization (Radford et al. 2019, section 2.3) on the vocabulary that `model` names.

    Its path is where the vocabulary is. The weights are a function of the seed, made one by one when they are read.

    Raises InputError if there is no vocabulary, or if the shape of the network is missing or impossible.
    """
    place, vocabulary = choose_vocabulary(settings)
    tokenizer = vocabulary.with_added(settings.add_tokens or ())
    config = choose_shape(settings, tokenizer.n_vocab)

    def read(name: str) -> "np.ndarray":
        from gpt_tf2.model import random_tensors  # imports Keras, whose backend is not chosen yet

        return random_tensors(config, settings.seed, settings.init_std)(name)

    def open_weights(path: Path) -> Checkpoint:
        return Checkpoint(path, tensor_shapes(config), read, config)

    notes = (describe_added(vocabulary, tokenizer, settings.add_tokens),) if settings.add_tokens else ()
    return OpenedModel(place, config, tokenizer, tokenizer.files, stamp_files(tokenizer.files), open_weights, notes)


def choose_vocabulary(settings: FinetuneSettings) -> tuple[Path, Tokenizer]:
    """Where the vocabulary is that `model` names, and the vocabulary; it may be downloaded.

    Raises InputError if there is none.
    """
    files = settings.json_encoder, settings.vocab_bpe
    places = [path for path in (MODELS / settings.model, Path(settings.model)) if path.exists()]
    for place in places or [Path(settings.model)]:
        tokenizer = find_vocabulary(place, *files)
        if tokenizer:
            return place, tokenizer
    if settings.model not in SIZES and not is_on_hub(settings.model):
        fix = f"make one (gpt-tf2 vocabulary TEXT --output {settings.model}), or give {', '.join(SIZES)}"
        raise InputError(f"no encoder.json and vocab.bpe in {MODELS / settings.model}: {fix}", "model", settings.model)
    place = find_model_path(settings.model, settings.offline)  # with its weights: the files of a model are one
    tokenizer = find_vocabulary(place, *files)
    if tokenizer is None:
        raise InputError(f"{place}: no encoder.json and vocab.bpe: give `json_encoder` and `vocab_bpe`")
    return place, tokenizer


def choose_shape(settings: FinetuneSettings, n_vocab: int) -> GPT2Config:
    """The hyper-parameters: the given ones, for others those of a released size if `model` names one.

    Raises InputError if one is missing, or if the heads do not divide the width.
    """
    released, shape = SIZES.get(settings.model), {}
    for name in SHAPE:
        value = getattr(settings, name)
        shape[name] = getattr(released, name) if value is None and released else value
        if shape[name] is None:
            raise InputError(f"needs the `{name}` of the network: give it", "from_scratch", True)
    if shape["n_embd"] % shape["n_head"]:
        raise InputError(f"does not divide `n_embd` {shape['n_embd']}: choose another", "n_head", shape["n_head"])
    return GPT2Config(n_vocab=n_vocab, n_ctx=settings.n_ctx or settings.length or LENGTH, **shape)
