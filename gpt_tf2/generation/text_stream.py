"""Text from tokens, one token at a time."""

import codecs
from collections.abc import Callable, Sequence

from gpt_tf2.tokenizer import Tokenizer


def discard(text: str) -> None:
    """Shows nothing: the default of everything that shows text."""


class TextStream:
    """Decodes tokens as they are generated, and ends at a stop text.

    Text is held back while it may still change: an incomplete character, or the beginning of a stop text.

    Args:
        stops: the text ends before the first occurrence of any of these.
        show: called with each piece of text that is certain.

    Attributes:
        text: the certain text so far.
        tokens: how many tokens were added.
        stopped: whether a stop text was reached.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), show: Callable[[str], None] = discard):
        self.text, self.tokens, self.stopped = "", 0, False
        self._tokenizer, self._stops, self._show = tokenizer, stops, show
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held_back = ""

    @property
    def length(self) -> int:
        """How many characters there are so far, those that are held back included."""
        return len(self.text) + len(self._held_back)

    def add(self, id: int) -> bool:
        """Appends a token. Returns False if it completes a stop text, which ends the text."""
        self.tokens += 1
        self._held_back += self._utf8.decode(self._tokenizer.decode_bytes(id))
        starts = [start for stop in self._stops if (start := self._held_back.find(stop)) >= 0]
        if starts:
            self.stopped = True
            self._held_back = self._held_back[: min(starts)]
            self.finish()
            return False
        partial_stop = max((find_overlap(self._held_back, stop) for stop in self._stops), default=0)
        self._release(len(self._held_back) - partial_stop)
        return True

    def finish(self) -> str:
        """Shows what was held back, except an incomplete character, and returns the whole text."""
        self._release(len(self._held_back))
        return self.text

    def _release(self, count: int) -> None:
        if count:
            certain, self._held_back = self._held_back[:count], self._held_back[count:]
            self.text += certain
            self._show(certain)


def find_overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, in characters."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
