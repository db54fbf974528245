"""A model on disk, found once: its checkpoint, hyper-parameters and vocabulary. Every command starts from one."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import companion_folder, find_companion
from gpt_tf2.checkpoints.formats import (
    SAFETENSORS,
    list_sources,
    locate,
    locate_base,
    open_adapters,
    open_checkpoint,
    read_config,
    read_transformers_settings,
    write_checkpoint,
)
from gpt_tf2.checkpoints.jinja_templates import find_jinja, parse_jinja, read_token_names
from gpt_tf2.checkpoints.merged import MergedTensors
from gpt_tf2.checkpoints.read_ahead import read_ahead
from gpt_tf2.checkpoints.transformers_settings import NOTHING_KEPT, TransformersSettings
from gpt_tf2.checkpoints.vocabularies import find_vocabulary, save_vocabulary
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import Sources
from gpt_tf2.tasks.chat_template import FILE as CHAT_TEMPLATE
from gpt_tf2.tasks.chat_template import ChatTemplate, read_template
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from gpt_tf2.model import GPT2, Place

Note = Callable[[str, str], None]
READ_WITHOUT_IMPORTS = {SAFETENSORS, ".h5", ".json"}


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model on disk with its hyper-parameters and vocabulary. Its weights are opened when first used.

    path: the checkpoint's file, or the prefix of a TF1 checkpoint.
    config: the hyper-parameters.
    tokenizer: the vocabulary.
    sources: the files that the weights and the hyper-parameters are read from.
    stamp: of the sources when the model was found; see `Sources.stamp`.
    open_weights: opens the weights at the path.
    notes: lines on what could not be checked, and on tokens that were added to those on disk.
    chat_template: of the chats that it was trained on; None if there were none.
    unread_template: the file of transformers' chat template, if that is more than a text around each message.
    settings_beside: the checkpoint, its own or that of its adapters' base, beside which transformers' settings lie.
    """

    path: Path
    config: GPT2Config
    tokenizer: Tokenizer
    sources: tuple[Path, ...]
    stamp: str
    open_weights: Callable[[Path], Checkpoint] = open_checkpoint
    notes: tuple[str, ...] = ()
    chat_template: ChatTemplate | None = None
    unread_template: Path | None = None
    settings_beside: Path | None = None

    @property
    def remark(self) -> str:
        """What a user should know of the model before it is used: the notes, and ids without a token; mostly empty."""
        nameless = len(self.tokenizer.undrawn(self.config.n_vocab))
        problem = f"no token for {nameless:,} of the model's {self.config.n_vocab:,} ids: these are never drawn"
        return "\n".join([*self.notes, *([f"{self.tokenizer.files[0]}: {problem}"] if nameless else [])])

    @functools.cached_property
    def transformers_settings(self) -> TransformersSettings:
        """What transformers keeps of it besides the network. Raises InputError if a file is malformed."""
        return read_transformers_settings(self.settings_beside) if self.settings_beside else NOTHING_KEPT

    def settings_for(self, output: str | Path) -> TransformersSettings:
        """What a file that it is written to keeps of these settings: all if it is `.safetensors`, else nothing.

        Raises InputError if they are kept and a file is malformed.
        """
        return self.transformers_settings if Path(output).suffix == SAFETENSORS else NOTHING_KEPT

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, checked against the hyper-parameters.

        Raises InputError if a file is truncated or damaged, or if it belongs to another network.
        """
        checkpoint = self.open_weights(self.path)
        checkpoint.check(self.config)
        return checkpoint

    def load(
        self,
        dropout: float = 0.0,
        precision: str = "float32",
        held: str = "float32",
        place: "Place | None" = None,
        note: Note | None = None,
        int8: bool = False,
    ) -> "GPT2":
        """Builds the network with its weights, reading tensor by tensor.

        Args:
            dropout, precision, held, place, int8: those of `read_model`.
            note: is given the name and the digest of each tensor as it was read. Hashing takes a second per GB.

        Raises InputError if a file is damaged, or has changed since the model was found: half of it may be another's.
        """
        checkpoint = with_notes(self.checkpoint, note) if note else self.checkpoint
        network = read_model(checkpoint, self.config, dropout, precision, held, place, int8)
        self.check_unchanged()
        return network

    def read_ahead(self) -> "OpenedModel":
        """The same model, whose weights are being read from now on, in a thread; see `read_ahead`.

        Only from files whose reading imports nothing: no module can be imported by two threads at once.
        """
        suffixes = {source.suffix for source in self.sources}
        if self.path not in self.sources or not suffixes <= READ_WITHOUT_IMPORTS:
            return self
        ahead = read_ahead(self.checkpoint)
        return dataclasses.replace(self, open_weights=lambda path: ahead)

    def check_unchanged(self) -> None:
        """Raises InputError if a file has changed since the model was found: half of what was read may be another's."""
        if stamp_files(self.sources) != self.stamp:
            raise InputError(f"{self.path}: has changed since it was opened: start again")


def stamp_files(paths: tuple[Path, ...]) -> str:
    """A text that changes with the files. Pipes, whose time changes as they are read, do not count."""
    return Sources(lambda: [str(path.absolute()) for path in paths if path.is_file()]).stamp()


def with_notes(checkpoint: Checkpoint, note: Note) -> Checkpoint:
    """The same checkpoint, but reading a tensor calls `note` with its name and its digest."""

    def read(name: str) -> "np.ndarray":
        values, digest = checkpoint.read_with_digest(name)
        note(name, digest)
        return values

    return dataclasses.replace(checkpoint, read=read)


def open_model(
    path: str | Path,
    json_hparams: str | Path | None = None,
    json_encoder: str | Path | None = None,
    vocab_bpe: str | Path | None = None,
    fallback: Path | None = None,
    base: Path | None = None,
) -> OpenedModel:
    """Finds a model with its hyper-parameters and vocabulary.

    Args:
        path: as in `open_checkpoint`.
        json_hparams: the file of the hyper-parameters. Default: those in the checkpoint, or the hparams.json beside it.
        json_encoder, vocab_bpe: the files of the vocabulary. Default: those beside the checkpoint.
        fallback: the folder to search for files that are not beside the checkpoint; then that of an adapters' base is.
        base: the model that adapters belong to. Default: the one that they name.

    Raises InputError if a file is missing or malformed, if the vocabulary has more tokens than the model, if adapters
    were trained with another vocabulary, or if a model that holds no adapters is given a base.

    Example:
        >>> open_model("models/124M").config.n_layer  # doctest: +SKIP
        12
    """
    path = locate(path)
    held = open_adapters(path)
    if base and not held:
        raise InputError(f"{path} holds no adapters, which alone have a base: leave it out", "base", base)
    fallbacks = [fallback] if fallback else []
    hparams = json_hparams or find_companion(path, "hparams.json", fallbacks=fallbacks)
    sources = (*list_sources(path, base), *([Path(hparams)] if hparams else []))
    stamp = stamp_files(sources)
    config = choose_config(path, None if json_hparams else read_config(path, base), hparams)
    notes = []
    whole = path
    owned = [companion_folder(path)]  # a folder around it may be that of another model
    if held:
        whole = base_path = locate_base(held, base)
        fallbacks.append(companion_folder(base_path))
        owned.append(companion_folder(base_path))
        if not held.knows_base:
            notes.append(f"{path}: these adapters keep no digest of their model, so {base_path} could not be checked")
    tokenizer = find_tokenizer(path, config, json_encoder, vocab_bpe, fallbacks, base)
    open_weights = functools.partial(open_checkpoint, base=base)
    return OpenedModel(
        path,
        config,
        tokenizer,
        sources,
        stamp,
        open_weights,
        tuple(notes),
        *find_template(owned, tokenizer),
        settings_beside=whole,
    )


def find_template(folders: Sequence[Path], tokenizer: Tokenizer) -> tuple[ChatTemplate | None, Path | None]:
    """The chat template in the first folder that has one, and the file of transformers' one that is not read."""
    for folder in folders:
        if (folder / CHAT_TEMPLATE).is_file():
            return read_template(folder / CHAT_TEMPLATE), None
    for folder in folders:
        if found := find_jinja(folder):
            file, text = found
            template = parse_jinja(text, read_token_names(folder), tokenizer.decode([tokenizer.end_of_text]))
            return template, None if template else file
    return None, None


def load_model(
    path: str | Path, config: GPT2Config | None = None, dropout: float = 0.0, precision: str = "float32"
) -> "GPT2":
    """Builds the network of a checkpoint, reading its weights tensor by tensor.

    Args:
        path: a folder with `model.safetensors` or `model.ckpt.index`, the prefix of a TF1 checkpoint, a `.h5` or a
            `.safetensors` file.
        config: the hyper-parameters. Default: those in the checkpoint, or the hparams.json beside it.
        dropout: the rate in training, 0 or more and less than 1.
        precision: float32, bfloat16 or float16, for the computation. The weights stay float32.

    Returns:
        A Keras model, from integer tokens [batch, time] to float32 logits [batch, time, n_vocab].

    Raises InputError, naming the file and the tensor, if one is missing, extra, damaged or of another shape.

    Example:
        >>> model = load_model("models/124M")  # doctest: +SKIP
        >>> model(np.array([[15496, 11, 995]])).shape  # doctest: +SKIP
        TensorShape([1, 3, 50257])
    """
    config, checkpoint = open_weights(path, config)
    return read_model(checkpoint, config, dropout, precision)


def open_weights(path: str | Path, config: GPT2Config | None = None) -> tuple[GPT2Config, Checkpoint]:
    """The hyper-parameters and the opened checkpoint of a model, checked against each other.

    The arguments are those of `load_model`.
    """
    path = locate(path)
    config = config or choose_config(path, read_config(path), find_companion(path, "hparams.json"))
    checkpoint = open_checkpoint(path)
    checkpoint.check(config)
    return config, checkpoint


def read_model(
    checkpoint: Checkpoint,
    config: GPT2Config,
    dropout: float = 0.0,
    precision: str = "float32",
    held: str = "float32",
    place: "Place | None" = None,
    int8: bool = False,
) -> "GPT2":
    """Builds the network of an opened checkpoint, which was checked against the hyper-parameters.

    precision, held: the dtypes to compute in and to store matrices in. The other arguments are those of `GPT2`.
    """
    start_backend()
    from gpt_tf2.model import GPT2

    policy = precision if held == precision else f"mixed_{precision}"
    return GPT2(config, dropout=dropout, read=checkpoint.read, dtype=policy, int8=int8, place=place)


def choose_config(path: Path, carried: GPT2Config | None, hparams: str | Path | None) -> GPT2Config:
    """The hyper-parameters that a checkpoint carries, or else those in the file `hparams`."""
    if carried:
        return carried
    if hparams is None:
        raise InputError(f"{path}: no hparams.json beside it: copy it there, or give `json_hparams`")
    return GPT2Config.from_json(hparams)


def find_tokenizer(
    path: Path,
    config: GPT2Config,
    json_encoder: str | Path | None = None,
    vocab_bpe: str | Path | None = None,
    fallbacks: Sequence[Path] = (),
    base: Path | None = None,
) -> Tokenizer:
    """The vocabulary of a located checkpoint. The arguments are those of `open_model`."""
    tokenizer = find_vocabulary(path, json_encoder, vocab_bpe, fallbacks)
    if tokenizer is None:
        fix = "copy them there, or give `json_encoder` and `vocab_bpe`"
        raise InputError(f"{path}: no encoder.json and vocab.bpe, and no tokenizer.json beside it: {fix}")
    source = tokenizer.files[0]
    if tokenizer.n_vocab != config.n_vocab:
        open_checkpoint(path, base).check(config)  # the hyper-parameters may be at fault, not the vocabulary
    if tokenizer.n_vocab > config.n_vocab:
        sizes = f"its highest id is {tokenizer.n_vocab - 1}, but the model has {config.n_vocab} tokens"
        fix = f"give the vocabulary of {path}, or add its tokens to the model (resize_token_embeddings in transformers)"
        raise InputError(f"{source}: {sizes}: {fix}")
    held = open_adapters(path)
    if held and held.notes.get("vocabulary_digest", tokenizer.digest) != tokenizer.digest:
        problem = f"another vocabulary than the one that the adapters {path} were trained with"
        raise InputError(f"{source}: {problem}: put the right files there")
    return tokenizer


def save_model(
    model: "GPT2",
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    kept: TransformersSettings = NOTHING_KEPT,
) -> None:
    """Writes a network's weights as a checkpoint, atomically, with its hyper-parameters inside or beside it.

    Adapters are merged into their matrices; the network keeps them.

    Args:
        path: `NAME.h5`, `NAME.safetensors` (`FOLDER/model.safetensors` makes a folder that transformers opens), or a
            TF1 checkpoint as prefix `NAME.ckpt` or as a folder.
        tokenizer: the vocabulary, which is saved beside the checkpoint.
        kept: what transformers keeps of the model besides its network; beside `.safetensors` it is saved.

    Raises InputError if the path names no format, if a file cannot be written, or if adapters lie on matrices that are
    stored in less than float32.

    Example:
        >>> save_model(model, "hf/model.safetensors", tokenizer)  # doctest: +SKIP
    """
    end = tokenizer.end_of_text if tokenizer else None
    written = write_checkpoint(path, model.config, MergedTensors(model), end, kept)
    if tokenizer:
        save_vocabulary(tokenizer, written)
