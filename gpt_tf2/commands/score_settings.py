"""The settings of `score`."""

import dataclasses

from gpt_tf2.commands.flags import flag


@dataclasses.dataclass(frozen=True)
class RougeSettings:
    """The settings of `score rouge`."""

    predictions: str = flag(dataclasses.MISSING, "file with one text per line, its sentences in <t> … </t>")
    references: str = flag(dataclasses.MISSING, "file with one reference per line, in the same form")
    json: bool = flag(False, "print JSON instead of a table", kind=bool)


@dataclasses.dataclass(frozen=True)
class CoqaSettings:
    """The settings of `score coqa`."""

    gold: str = flag(dataclasses.MISSING, "CoQA's JSON file with the answers")
    predictions: str = flag(dataclasses.MISSING, "JSON list of objects with id, turn_id and answer")
    json: bool = flag(False, "print JSON instead of a table", kind=bool)
