"""The settings of `vocabulary`."""

import dataclasses
from pathlib import Path

from gpt_tf2.commands.data_settings import COLUMN, ENCODING
from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.errors import InputError

LEAST = 257  # tokens: 256 bytes and the end of text


@dataclasses.dataclass(frozen=True)
class VocabularySettings:
    """The settings of `vocabulary`."""

    data: str = flag(dataclasses.MISSING, "the text: a file, a folder or a glob; - is stdin")
    size: int = flag(32000, "tokens, the 256 bytes and the end of text included", kind=int, at_least=LEAST, below=2**31)
    output: str | None = flag(
        None, "the folder to write, in models/ unless it names another one (the name of the text)", metavar="FOLDER"
    )
    encoding: str | None = flag(None, **ENCODING)
    column: str | None = flag(None, **COLUMN)

    task, literal_specials, highlights = "text", False, "one"  # how the data is read

    def __post_init__(self) -> None:
        check_ranges(self)

    def folder(self) -> Path:
        """The folder to write. Raises InputError if the text has no name."""
        from gpt_tf2.commands.find_model import MODELS

        if self.output:
            return MODELS / self.output if Path(self.output).name == self.output else Path(self.output)
        text = Path(self.data)
        if not text.exists() or not text.stem:
            raise InputError("gives the vocabulary no name: give the `output`", "data", self.data)
        return MODELS / text.absolute().stem
