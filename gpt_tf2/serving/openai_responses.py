"""Answers in the form of OpenAI's API, from the events of completions."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from gpt_tf2.serving.completion import Finished, Piece, ScoredToken


class CompletionBody:
    """The bodies that answer one `POST /v1/completions`.

    Args:
        model: its name.
        count: how many completions there are.
        prompt_tokens: of all prompts together.
        scored: whether log-probabilities were asked for.
    """

    def __init__(self, model: str, count: int, prompt_tokens: int, scored: bool):
        created, id = int(time.time()), f"cmpl-{uuid.uuid4().hex}"
        self._head = {"id": id, "object": "text_completion", "created": created, "model": model}
        self._prompt_tokens, self._scored = prompt_tokens, scored
        self._texts = [""] * count
        self._tokens: list[list[ScoredToken]] = [[] for _ in range(count)]
        self._reasons: list[str | None] = [None] * count
        self.completion_tokens = 0

    def add(self, event: Piece | Finished) -> None:
        """Takes an event for `whole` and `usage`."""
        if isinstance(event, Finished):
            self._reasons[event.index] = event.reason
            self.completion_tokens += event.tokens
        else:
            self._texts[event.index] += event.text
            self._tokens[event.index] += event.tokens

    def whole(self) -> dict[str, Any]:
        """The body of an answer in one piece."""
        choices = [
            self._choice(index, text, tokens, reason)
            for index, (text, tokens, reason) in enumerate(zip(self._texts, self._tokens, self._reasons, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": self.usage()}

    def chunk(self, event: Piece | Finished) -> dict[str, Any]:
        """The chunk of a stream for an event."""
        if isinstance(event, Finished):
            return {**self._head, "choices": [self._choice(event.index, "", [], event.reason)]}
        return {**self._head, "choices": [self._choice(event.index, event.text, event.tokens, None)]}

    def last_chunk(self) -> dict[str, Any]:
        """The chunk that ends a stream with the number of tokens."""
        return {**self._head, "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """The numbers of tokens."""
        total = self._prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }

    def _choice(self, index: int, text: str, tokens: Sequence[ScoredToken], reason: str | None) -> dict[str, Any]:
        logprobs = format_logprobs(tokens) if self._scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def format_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, list]:
    """The `logprobs` of a choice: one list for each thing known about the tokens."""
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }
