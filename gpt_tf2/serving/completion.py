"""One completion while it is generated: tokens in, events with whole characters out."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gpt_tf2.generation.text_stream import TextStream
from gpt_tf2.generation.token_logprobs import TokenLogprobs
from gpt_tf2.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI sends this number


class ScoredToken(NamedTuple):
    """A token with its log-probability, those of its alternatives by their names, and where in the text it begins.

    The first token of a prompt of ids follows nothing, and has no log-probabilities.
    """

    token: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """More of the text of completion `index`, and the tokens that it is made of, if they are scored."""

    index: int
    text: str
    tokens: list[ScoredToken]


@dataclasses.dataclass(frozen=True)
class Finished:
    """The end of completion `index`, after a number of new tokens.

    reason: "stop" at a stop text or at the model's own end, "length" where it had no more room.
    """

    index: int
    reason: str
    tokens: int


Event = Piece | Finished
Emit = Callable[[Event], None]


class Completion:
    """Turns the tokens of one completion into events.

    Args:
        index: of the completion in its request.
        stops: the text ends before the first occurrence of any of these.
        room: most new tokens.
        offset: characters of the text before the first new token.
        emit: is called with each event.
        streamed: whether each piece is an event. Otherwise the first is, and the others are one at the end.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        room: int,
        offset: int,
        emit: Emit,
        streamed: bool,
    ) -> None:
        self.index, self._tokenizer, self._room, self._offset, self._emit = index, tokenizer, room, offset, emit
        self._holds_back, self._streamed = False, streamed
        self._pieces: list[str] = []
        self._scored: list[ScoredToken] = []
        self._text = TextStream(tokenizer, stops, self._pieces.append)

    def record(self, logprobs: TokenLogprobs) -> None:
        """Takes the log-probabilities of the token that comes next."""
        self._scored.append(name_scores(self._tokenizer, logprobs, self._offset + self._text.length))

    def add(self, id: int) -> bool:
        """Appends a token. Returns False if it completes a stop text."""
        goes_on = self._text.add(id)
        if not self._holds_back:
            self._release(self._offset + len(self._text.text))
        return goes_on

    def finish(self) -> None:
        """Emits what was held back, and the end."""
        self._text.finish()
        stopped, ended = self._text.stopped, self._text.tokens < self._room
        if ended and not stopped and self._scored:
            self._scored.pop()  # the end of the text, which is no token of it
        self._release(self._offset + len(self._text.text) if stopped else None)
        self._emit(Finished(self.index, "stop" if stopped or ended else "length", self._text.tokens))

    def _release(self, end: int | None) -> None:
        """Emits the text that is certain, and the tokens that begin before `end`, all by default."""
        count = len(self._scored) if end is None else sum(token.offset < end for token in self._scored)
        text, tokens = "".join(self._pieces), self._scored[:count]
        self._pieces.clear()
        del self._scored[:count]
        if text or tokens:
            self._emit(Piece(self.index, text, tokens))
            self._holds_back = not self._streamed


def name_scores(tokenizer: Tokenizer, logprobs: TokenLogprobs, offset: int) -> ScoredToken:
    """A token's log-probabilities as the API reports them."""
    top = {name_token(tokenizer, id): clip(logprob) for id, logprob in logprobs.top}
    return ScoredToken(name_token(tokenizer, logprobs.id), clip(logprobs.logprob), top, offset)


def name_token(tokenizer: Tokenizer, id: int) -> str:
    r"""A token's text, or `bytes:\xc3` if it is only part of a character, as OpenAI writes it."""
    token = tokenizer.decode_bytes(id)
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def clip(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, LEAST_LOGPROB)


def locate_tokens(tokenizer: Tokenizer, ids: list[int]) -> Iterator[int]:
    """Yields where in the text of ids each token begins, in characters."""
    stream = TextStream(tokenizer)
    for id in ids:
        yield stream.length
        stream.add(id)
