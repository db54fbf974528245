"""A model found on disk and opened once: what every command starts from."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.checkpoints.checkpoint import Checkpoint, beside, home
from gpt_tf2.checkpoints.formats import is_prefix, locate, open_checkpoint, source_files, write_checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import write_text
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.model import GPT2


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model on disk with all that belongs to it. None of its tensors has been read.

    path: its file, or the prefix of a TF1 checkpoint.
    config: its hyper-parameters.
    tokenizer: its vocabulary.
    sources: the files that its weights and hyper-parameters come from.
    """

    path: Path
    config: GPT2Config
    tokenizer: Tokenizer
    sources: tuple[Path, ...]
    _checkpoint: Checkpoint | None = None

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, checked against the hyper-parameters. Opened on first use: for TF1 that imports TensorFlow.

        Raises InputError if the file is truncated, damaged, or belongs to another network.
        """
        checkpoint = self._checkpoint or open_checkpoint(self.path)
        checkpoint.check(self.config)
        return checkpoint

    def load(self, dropout: float = 0.0, precision: str = "float32", held: str = "float32") -> "GPT2":
        """The network with its weights, read tensor by tensor; see `GPT2` for the arguments."""
        return read_model(self.checkpoint, self.config, dropout, precision, held)


def open_model(
    path: str | Path,
    json_hparams: str | None = None,
    json_encoder: str | None = None,
    vocab_bpe: str | None = None,
    fallback: Path | None = None,
) -> OpenedModel:
    """Finds a model with its hyper-parameters and vocabulary.

    Args:
        path: as in `open_checkpoint`.
        json_hparams: the file of the hyper-parameters; by default those in the checkpoint or beside it.
        json_encoder, vocab_bpe: the files of the vocabulary; by default those beside the checkpoint.
        fallback: a folder that is searched for what is not beside the checkpoint.

    Raises InputError if one of them is missing or malformed, or if the vocabulary has another size than the model.

    Example:
        >>> open_model("models/124M").config.n_layer  # doctest: +SKIP
        12
    """
    path = locate(path)
    hparams = json_hparams or beside(path, "hparams.json", fallback=fallback)
    # A TF1 checkpoint is opened when it is used, as that imports TensorFlow.
    checkpoint = None if is_prefix(path) and hparams else open_checkpoint(path)
    config = find_config(path, checkpoint, hparams, overrides=json_hparams is not None)
    tokenizer = find_tokenizer(path, config, json_encoder, vocab_bpe, fallback)
    return OpenedModel(path, config, tokenizer, source_files(path, json_hparams), checkpoint)


def load_model(
    path: str | Path, config: GPT2Config | None = None, dropout: float = 0.0, precision: str = "float32"
) -> "GPT2":
    """The network in a checkpoint, read tensor by tensor into its variables.

    Args:
        path: as in `open_checkpoint`.
        config: the hyper-parameters; by default those in the file or beside it.
        dropout: the rate in training.
        precision: float32, bfloat16 or float16, for the computation; the weights stay float32.

    Raises InputError, naming the file and the tensor, if one is missing, extra, misshapen or damaged.

    Example:
        >>> model = load_model("models/124M")  # doctest: +SKIP
        >>> model(np.array([[15496, 11, 995]])).shape  # float32 logits [batch, time, n_vocab]  # doctest: +SKIP
        TensorShape([1, 3, 50257])
    """
    checkpoint = open_checkpoint(path)
    beside_it = beside(checkpoint.path, "hparams.json")
    return read_model(checkpoint, config or find_config(checkpoint.path, checkpoint, beside_it), dropout, precision)


def read_model(
    checkpoint: Checkpoint,
    config: GPT2Config,
    dropout: float = 0.0,
    precision: str = "float32",
    held: str = "float32",
) -> "GPT2":
    """The network of an opened checkpoint; see `GPT2` for the arguments."""
    checkpoint.check(config)
    from gpt_tf2.model import GPT2

    return GPT2(config, dropout, checkpoint.read, precision=precision, held=held)


def save_model(model: "GPT2", path: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Writes a network's checkpoint, atomically; the hyper-parameters go into it or beside it.

    Args:
        path: `NAME.h5`; `NAME.safetensors` (`FOLDER/model.safetensors` makes a folder that transformers opens); or a
            TF1 checkpoint's prefix `NAME.ckpt` or folder.
        tokenizer: its two files are copied beside the checkpoint.

    Raises InputError if the path names no format, or cannot be written.

    Example:
        >>> save_model(model, "hf/model.safetensors", tokenizer)  # doctest: +SKIP
    """
    written = write_checkpoint(path, model.config, model.tensors())
    if tokenizer:
        save_vocabulary(tokenizer, written)


def save_vocabulary(tokenizer: Tokenizer, path: Path) -> None:
    """Copies a tokenizer's two files beside a checkpoint."""
    names = ("vocab.json", "merges.txt") if path.suffix == ".safetensors" else ("encoder.json", "vocab.bpe")
    for source, name in zip(tokenizer.files, names, strict=True):
        if source.resolve() != (home(path) / name).resolve():
            write_text(home(path) / name, source.read_text(encoding="utf-8"))


def find_config(
    path: Path, checkpoint: Checkpoint | None, hparams: str | Path | None, overrides: bool = False
) -> GPT2Config:
    """The hyper-parameters of a checkpoint: those that it carries, or else those of the file `hparams`.

    Args:
        overrides: whether the file goes first.
    """
    if checkpoint and checkpoint.config and not overrides:
        return checkpoint.config
    if hparams is None:
        raise InputError(f"{path}: no hparams.json beside it: give `json_hparams`")
    return GPT2Config.from_json(hparams)


def find_tokenizer(
    path: Path,
    config: GPT2Config,
    json_encoder: str | None = None,
    vocab_bpe: str | None = None,
    fallback: Path | None = None,
) -> Tokenizer:
    """The vocabulary of a located checkpoint; the arguments are those of `open_model`."""
    encoder = json_encoder or beside(path, "encoder.json", "vocab.json", fallback=fallback)
    merges = vocab_bpe or beside(path, "vocab.bpe", "merges.txt", fallback=fallback)
    if encoder is None or merges is None:
        raise InputError(f"{path}: no encoder.json and vocab.bpe beside it: give `json_encoder` and `vocab_bpe`")
    tokenizer = Tokenizer(encoder, merges)
    if tokenizer.n_vocab != config.n_vocab:
        sizes = f"{tokenizer.n_vocab} tokens, but the model has {config.n_vocab}"
        raise InputError(f"{encoder}: {sizes}: give the encoder.json and vocab.bpe of {path}")
    return tokenizer
