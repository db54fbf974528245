"""The text of tokens as they come."""

import codecs
from collections.abc import Callable, Sequence

from gpt_tf2.tokenizer import Tokenizer


def nowhere(text: str) -> None:
    """Shows nothing."""


class Writer:
    """Collects the text of ids, and shows it as soon as it is sure.

    Half a character, and what may be the beginning of a stop text, waits for what follows.

    Args:
        stops: texts at which the text ends; none of them is part of it.
        show: is called with each piece of text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), show: Callable[[str], None] = nowhere):
        self.tokenizer, self.stops, self.show = tokenizer, stops, show
        self.bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = self.waiting = ""
        self.stopped = False
        self.count = 0  # tokens

    def add(self, id: int) -> bool:
        """Appends a token; False if the text has ended."""
        self.count += 1
        self.waiting += self.bytes.decode(self.tokenizer.decode_bytes(id))
        found = [at for stop in self.stops if (at := self.waiting.find(stop)) >= 0]
        if found:
            self.stopped = True
            self.waiting = self.waiting[: min(found)]
            self.finish()
            return False
        self._put(len(self.waiting) - max((overlap(self.waiting, stop) for stop in self.stops), default=0))
        return True

    def finish(self) -> str:
        """The whole text; what waited is part of it, but for half a character."""
        self._put(len(self.waiting))
        return self.text

    def _put(self, count: int) -> None:
        if count:
            sure, self.waiting = self.waiting[:count], self.waiting[count:]
            self.text += sure
            self.show(sure)


def overlap(text: str, stop: str) -> int:
    """How many characters at a text's end are the beginning of a stop text."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
