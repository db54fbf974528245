"""The settings of `chat`."""

import dataclasses

from gpt_tf2.commands.data_settings import ENCODING
from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import ModelSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings(ModelSettings):
    """The settings of `chat`."""

    passage: str | None = flag(
        None, "the file with the text to ask about, for a model that learned from CoQA", group="text", metavar="FILE"
    )
    system: str | None = flag(None, "the system message, which comes before the chat", group="text", metavar="TEXT")
    encoding: str | None = flag(None, **ENCODING | {"group": "text"})
    temperature: float = flag(
        0.0, "0 takes the most likely token, higher values vary more", group="sampling", kind=float, at_least=0
    )
