"""Answers in the form of OpenAI's API, from the events of completions."""

import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from gpt_tf2.serving.completion import Finished, Piece, ScoredToken

PARTIAL = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")  # what `name_token` calls a part of a character
Body = dict[str, Any]


class Answer:
    """The bodies that answer one request: one whole, or the chunks of a stream. A subclass has the form of a route.

    Args:
        model: its name.
        count: how many completions there are.
        prompt_tokens: of all prompts together.
        scored: whether log-probabilities were asked for.
    """

    prefix, kind, kind_of_chunk = "", "", ""

    def __init__(self, model: str, count: int, prompt_tokens: int, scored: bool):
        created, id = int(time.time()), f"{self.prefix}-{uuid.uuid4().hex}"
        self.model = model
        self._head = {"id": id, "object": self.kind, "created": created, "model": model}
        self._prompt_tokens, self._scored = prompt_tokens, scored
        self._texts = [""] * count
        self._tokens: list[list[ScoredToken]] = [[] for _ in range(count)]
        self._reasons: list[str | None] = [None] * count
        self.completion_tokens = 0

    def add(self, event: Piece | Finished) -> Body:
        """Takes an event. Returns the chunk of a stream for it."""
        if isinstance(event, Finished):
            self._reasons[event.index] = event.reason
            self.completion_tokens += event.tokens
            choice = self.end(event.index, event.reason)
        else:
            choice = self.part(event.index, event.text, event.tokens, self._texts[event.index])
            self._texts[event.index] += event.text
            self._tokens[event.index] += event.tokens
        return {**self._head, "object": self.kind_of_chunk, "choices": [choice]}

    def whole(self) -> Body:
        """The body of an answer in one piece."""
        parts = zip(self._texts, self._tokens, self._reasons, strict=True)
        return {
            **self._head,
            "choices": [self.choice(index, *part) for index, part in enumerate(parts)],
            "usage": self._usage(),
        }

    def last_chunk(self) -> Body:
        """The chunk that ends a stream with the number of tokens."""
        return {**self._head, "object": self.kind_of_chunk, "choices": [], "usage": self._usage()}

    def list_texts(self) -> list[Body]:
        """Each completion's text as far as it goes, and why it ended, or null if it did not."""
        pairs = zip(self._texts, self._reasons, strict=True)
        return [{"text": text, "finish_reason": reason} for text, reason in pairs]

    def _usage(self) -> dict[str, int]:
        prompt, completion = self._prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def choice(self, index: int, text: str, tokens: Sequence[ScoredToken], reason: str | None) -> Body:
        """A completion as a whole."""
        raise NotImplementedError

    def part(self, index: int, text: str, tokens: Sequence[ScoredToken], before: str) -> Body:
        """More of a completion, whose text was `before`."""
        raise NotImplementedError

    def end(self, index: int, reason: str) -> Body:
        """The end of a completion."""
        raise NotImplementedError


class CompletionAnswer(Answer):
    """Answers to `POST /v1/completions`."""

    prefix, kind, kind_of_chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, text: str, tokens: Sequence[ScoredToken], reason: str | None) -> Body:
        logprobs = list_logprobs(tokens) if self._scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def part(self, index: int, text: str, tokens: Sequence[ScoredToken], before: str) -> Body:
        return self.choice(index, text, tokens, None)

    def end(self, index: int, reason: str) -> Body:
        return self.choice(index, "", [], reason)


class ChatAnswer(Answer):
    """Answers to `POST /v1/chat/completions`. A reply does not begin with the space that its first token has."""

    prefix, kind, kind_of_chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, text: str, tokens: Sequence[ScoredToken], reason: str | None) -> Body:
        message = {"role": "assistant", "content": text.lstrip(), "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(tokens), "finish_reason": reason}

    def part(self, index: int, text: str, tokens: Sequence[ScoredToken], before: str) -> Body:
        delta = {"content": text if before.strip() else text.lstrip()}
        if not before:
            delta["role"] = "assistant"
        return {"index": index, "delta": delta, "logprobs": self._logprobs(tokens), "finish_reason": None}

    def end(self, index: int, reason: str) -> Body:
        delta = {} if self._texts[index] else {"role": "assistant", "content": ""}  # the role comes once in any case
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> Body | None:
        if not self._scored:
            return None
        return {
            "content": [
                describe_token(token.token, token.logprob)
                | {"top_logprobs": [describe_token(name, logprob) for name, logprob in (token.top or {}).items()]}
                for token in tokens
            ],
            "refusal": None,
        }


def list_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, list]:
    """The `logprobs` of a completion: one list for each thing known about the tokens."""
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def describe_token(name: str, logprob: float | None) -> Body:
    """A token of a chat with its log-probability."""
    partial = PARTIAL.fullmatch(name)
    content = bytes.fromhex(partial[1].replace("\\x", "")) if partial else name.encode()
    return {"token": name, "logprob": logprob, "bytes": list(content)}
