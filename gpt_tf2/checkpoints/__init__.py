"""Checkpoints: one module a format, and the functions that choose among them by the path."""

from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.checkpoints import adapters, hdf5, huggingface, openai
from gpt_tf2.checkpoints.checkpoint import Checkpoint, beside, home
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import write_text
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.model import GPT2

HDF5_SUFFIXES = (".h5", ".hdf5")
FORMATS = "a TF1 checkpoint (its folder, or the prefix model.ckpt), a .h5 or a .safetensors file"


def locate(path: str | Path) -> Path:
    """The file of a checkpoint, or a TF1 checkpoint's prefix.

    path: as in `open_checkpoint`.

    Raises InputError if there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("model.safetensors", "model.ckpt.index"):
            if (path / name).is_file():
                return path / name.removesuffix(".index")
        raise InputError(f"{path}: neither model.ckpt.index nor model.safetensors in this folder: give {FORMATS}")
    if not path.is_file() and not path.with_name(path.name + ".index").is_file():
        raise InputError(f"{path}: no such checkpoint: download it (gpt-tf2 download SIZE), or give {FORMATS}")
    return path


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint without reading its tensors.

    Args:
        path: a folder that holds `model.safetensors` or `model.ckpt.index`, the prefix of a TF1 checkpoint, a `.h5`
            or a `.safetensors` file.

    Raises InputError if there is none, or it is truncated or of another program.
    """
    path = locate(path)
    if path.with_name(path.name + ".index").is_file():
        return openai.open_checkpoint(path)
    if path.suffix in HDF5_SUFFIXES:
        base = adapters.base_of(path)
        return adapters.merged(path, open_base(path, base)) if base else hdf5.open_checkpoint(path)
    if path.suffix == ".safetensors":
        return huggingface.open_checkpoint(path)
    raise InputError(f"{path}: not a checkpoint: give {FORMATS}")


def files_of(path: Path, json_hparams: str | None = None) -> list[Path]:
    """The files that a located checkpoint's weights and hyper-parameters are read from."""
    hparams = json_hparams or beside(path, "hparams.json", "config.json")
    about = [Path(hparams)] if hparams else []
    if path.with_name(path.name + ".index").is_file():
        return [path.with_name(path.name + suffix) for suffix in (".index", openai.DATA)] + about
    base = adapters.base_of(path) if path.suffix in HDF5_SUFFIXES else None
    return [path, *about, *(files_of(locate(base)) if base else [])]


def open_base(path: Path, base: str) -> Checkpoint:
    """The model that the adapters at `path` belong to."""
    try:
        return open_checkpoint(base)
    except InputError as error:
        raise InputError(f"{path} holds adapters of {base}, which cannot be opened: {error}") from None


def find_config(checkpoint: Checkpoint, json_hparams: str | None = None, fallback: Path | None = None) -> GPT2Config:
    """The hyper-parameters of a checkpoint, checked against its tensors.

    Args:
        json_hparams: their file; by default those in the checkpoint, else in the `hparams.json` beside it.
        fallback: a folder to look for it where none is beside the checkpoint.
    """
    found = json_hparams or beside(checkpoint.path, "hparams.json", fallback=fallback)
    if json_hparams is None and checkpoint.config:
        config = checkpoint.config
    elif found is None:
        raise InputError(f"{checkpoint.path}: no hparams.json beside it: give --json_hparams")
    else:
        config = GPT2Config.from_json(found)
    checkpoint.check(config)
    return config


def find_tokenizer(
    path: Path,
    config: GPT2Config,
    encoder_json: str | None = None,
    vocab_bpe: str | None = None,
    fallback: Path | None = None,
) -> Tokenizer:
    """The vocabulary of a checkpoint.

    Args:
        path: of the checkpoint.
        encoder_json, vocab_bpe: its files; by default `encoder.json` (or `vocab.json`) and `vocab.bpe` (or
            `merges.txt`) beside the checkpoint.
        fallback: a folder to look for them where none is beside the checkpoint.

    Raises InputError if there is none, or it has not the model's number of tokens.
    """
    ids = encoder_json or beside(path, "encoder.json", "vocab.json", fallback=fallback)
    merges = vocab_bpe or beside(path, "vocab.bpe", "merges.txt", fallback=fallback)
    if ids is None or merges is None:
        raise InputError(f"{path}: no encoder.json and vocab.bpe beside it: give --json_encoder and --vocab_bpe")
    tokenizer = Tokenizer(ids, merges)
    if tokenizer.n_vocab != config.n_vocab:
        sizes = f"{tokenizer.n_vocab} tokens, the model has {config.n_vocab}"
        raise InputError(f"{ids}: {sizes}: give the encoder.json and vocab.bpe of {path}")
    return tokenizer


def load_model(
    path: str | Path, config: GPT2Config | None = None, dropout: float = 0.0, precision: str = "float32"
) -> "GPT2":
    """The model in a checkpoint, read tensor by tensor into its variables.

    Args:
        path: as in `open_checkpoint`.
        config: the hyper-parameters; by default those in the file or beside it.
        dropout: of the network, in training.
        precision: float32, bfloat16 or float16, in which it computes; the weights stay float32.

    Raises InputError, naming the file and the tensor, if one is missing, extra, misshapen or damaged.
    """
    checkpoint = open_checkpoint(path)
    return read_model(checkpoint, config or find_config(checkpoint), dropout, precision)


def read_model(
    checkpoint: Checkpoint,
    config: GPT2Config,
    dropout: float = 0.0,
    precision: str = "float32",
    held: str = "float32",
) -> "GPT2":
    """The model of an opened checkpoint; held: see `GPT2`."""
    checkpoint.check(config)
    from gpt_tf2.model import GPT2

    return GPT2(config, dropout, checkpoint.read, precision=precision, held=held)


def save_model(model: "GPT2", path: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Writes a checkpoint, atomically; the hyper-parameters go into it or beside it.

    Args:
        path: `NAME.h5`; `NAME.safetensors` (`FOLDER/model.safetensors` makes a folder that transformers opens); or a
            TF1 checkpoint's prefix `NAME.ckpt` or folder.
        tokenizer: its two files are copied beside the checkpoint.

    Raises InputError if the path names no format, or cannot be written.
    """
    path = Path(path)
    check_format(path)
    tensors = model.tensors()
    if path.suffix in HDF5_SUFFIXES:
        hdf5.write(path, model.config, tensors)
    elif path.suffix == ".safetensors":
        huggingface.write(path, model.config, tensors)
    else:
        if not path.suffix:
            path = path / "model.ckpt"
        openai.write(path, tensors)
        write_text(home(path) / "hparams.json", model.config.to_json())
    if tokenizer:
        save_vocabulary(tokenizer, path)


def save_vocabulary(tokenizer: Tokenizer, path: Path) -> None:
    """Copies a tokenizer's two files beside a checkpoint."""
    names = ("vocab.json", "merges.txt") if path.suffix == ".safetensors" else ("encoder.json", "vocab.bpe")
    for source, name in zip(tokenizer.files, names, strict=True):
        if source.resolve() != (home(path) / name).resolve():
            write_text(home(path) / name, source.read_text(encoding="utf-8"))


def check_format(path: Path) -> None:
    """Raises InputError unless the path names a format to write."""
    if path.suffix not in (*HDF5_SUFFIXES, ".safetensors", ".ckpt", ""):
        raise InputError(f"{path}: unknown format {path.suffix}: end the name in .h5, .safetensors or .ckpt")
