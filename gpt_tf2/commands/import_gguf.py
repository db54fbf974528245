"""`import`: a model in a GGUF file to a checkpoint."""

import dataclasses
from pathlib import Path

from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.formats import check_format, try_to_locate, write_checkpoint
from gpt_tf2.checkpoints.gguf_files import open_checkpoint, read_vocabulary
from gpt_tf2.checkpoints.jinja_templates import parse_jinja
from gpt_tf2.checkpoints.read_tensors import ReadTensors
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.storage.gguf import open_gguf


@dataclasses.dataclass(frozen=True)
class ImportSettings:
    """The settings of `import`.

    Raises InputError for a value of a wrong kind.
    """

    file: str = flag(dataclasses.MISSING, "a .gguf file of a GPT-2: float32, float16 or q8_0")
    output: str | None = flag(
        None, "the checkpoint to write, NAME.h5, .safetensors or .ckpt (output/NAME.h5)", metavar="PATH"
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def import_gguf(settings: ImportSettings) -> Path:
    """Writes the checkpoint, with the vocabulary and the chat template beside it. Prints and returns its path.

    The memory holds one tensor at a time.

    Raises InputError if the file holds no GPT-2, or is damaged, or if the output cannot be written.

    Example:
        >>> import_gguf(ImportSettings("book.gguf"))  # doctest: +SKIP
        PosixPath('output/book.h5')
    """
    path = Path(settings.file)
    output = Path(settings.output) if settings.output else Path("output") / f"{path.stem}.h5"
    check_format(output)
    file = open_gguf(path)
    tokenizer, checkpoint = read_vocabulary(file), open_checkpoint(file)
    assert checkpoint.config
    replaces = try_to_locate(str(output)) is not None
    written = write_checkpoint(output, checkpoint.config, ReadTensors(checkpoint), tokenizer.end_of_text)
    save_vocabulary(tokenizer, written)
    jinja = file.fields.get("tokenizer.chat_template")
    end = tokenizer.decode([tokenizer.end_of_text])
    template = parse_jinja(jinja, companion_folder(written), end) if isinstance(jinja, str) else None
    save_chat_template(template, tokenizer, written, replaces)
    if jinja and not template:
        print_to_stderr(f"{path}: its chat template is more than a text around each message, and is not kept")
    print(written)
    return written
