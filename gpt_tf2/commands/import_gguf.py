"""`import`: a model in a GGUF file to a checkpoint."""

from pathlib import Path
from typing import Any

from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.formats import check_format, try_to_locate, write_checkpoint
from gpt_tf2.checkpoints.gguf_files import open_checkpoint, read_vocabulary
from gpt_tf2.checkpoints.jinja_templates import parse_jinja
from gpt_tf2.checkpoints.read_tensors import ReadTensors
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.commands.import_gguf_settings import ImportSettings
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.errors import InputError
from gpt_tf2.storage.gguf import GGUFFile, open_gguf
from gpt_tf2.storage.locks import write_alone
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tokenizer import Tokenizer

OUTPUT = Path("output")


def import_gguf(settings: ImportSettings) -> Path:
    """Writes the checkpoint, with the vocabulary and the chat template beside it. Prints and returns its path.

    The memory holds one tensor at a time.

    Raises InputError if the file holds no GPT-2, or is damaged, or if the output cannot be written. What is there is
    replaced only if the output is named.

    Example:
        >>> import_gguf(ImportSettings("book.gguf"))  # doctest: +SKIP
        PosixPath('output/book.h5')
    """
    path = Path(settings.file)
    output = Path(settings.output) if settings.output else OUTPUT / f"{path.stem}.h5"
    check_format(output)
    file = open_gguf(path)
    tokenizer, checkpoint = read_vocabulary(file), open_checkpoint(file)
    assert checkpoint.config
    template = read_chat_template(file, tokenizer)
    with write_alone(output, "output", locked=companion_folder(output)):
        if not settings.output:
            check_unused(output)
        replaces = try_to_locate(str(output)) is not None
        written = write_checkpoint(output, checkpoint.config, ReadTensors(checkpoint), tokenizer.end_of_text)
        save_vocabulary(tokenizer, written)
        save_chat_template(template, tokenizer, written, replaces)
    if "tokenizer.chat_template" in file.fields and not template:
        print_to_stderr(f"{path}: its chat template is more than a text around each message, and is not kept")
    print(written)
    return written


def check_unused(output: Path) -> None:
    """Raises InputError if the checkpoint or the folder of its run is there: it may be what was exported."""
    for path in (output, companion_folder(output)):
        if path.exists():
            raise InputError(f"{path}: is there already: give another name as `output`")


def read_chat_template(file: GGUFFile, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template of a file; None if it has none, or if that is more than a text around each message."""
    jinja: Any = file.fields.get("tokenizer.chat_template")
    begin: Any = file.fields.get("tokenizer.ggml.bos_token_id")
    end = tokenizer.decode([tokenizer.end_of_text])
    has_begin = isinstance(begin, int) and 0 <= begin < tokenizer.n_vocab
    names = {"eos_token": end, "bos_token": tokenizer.decode([begin]) if has_begin else ""}
    return parse_jinja(jinja, names, end) if isinstance(jinja, str) else None
