"""The settings of `show-data`."""

import dataclasses

from gpt_tf2.commands.data_settings import CHAT_TEMPLATE, COLUMN, DATA, ENCODING, HIGHLIGHTS, LITERAL_SPECIALS, TASK
from gpt_tf2.commands.flags import check_ranges, flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowDataSettings:
    """The settings of `show-data`."""

    data: str = flag(dataclasses.MISSING, **DATA)
    task: str = flag("text", **TASK)
    encoding: str | None = flag(None, **ENCODING)
    column: str | None = flag(None, **COLUMN)
    literal_specials: bool = flag(False, **LITERAL_SPECIALS)
    highlights: str = flag("one", **HIGHLIGHTS)
    chat_template: str | None = flag(None, **CHAT_TEMPLATE)
    model: str | None = flag(
        None,
        "model whose vocabulary counts the tokens, with its context and its chat template",
        group="data",
        metavar="MODEL",
    )
    split: str = flag("train", "train, or val and test of jsonl and cnndm, dev of coqa", group="data")
    limit: int | None = flag(
        None, "most completions, or pairs of them, to print (all)", group="output", kind=int, at_least=1, below=2**31
    )
    seed: int = flag(0, "seed of what is drawn, such as one of the highlights", group="data", kind=int, at_least=0)
    json: bool = flag(False, "print one JSON object per completion or pair, for programs", group="output", kind=bool)

    def __post_init__(self) -> None:
        check_ranges(self)
