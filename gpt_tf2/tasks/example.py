"""What a task gives: examples, and an account of what it could not use."""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Example:
    """Text in which the model's parts are known.

    id: names it within its data set.
    turns: pairs of a prompt, which the model is given, and the completion it should answer with, in their order.
    """

    id: str
    turns: tuple[tuple[str, str], ...]


class LeftOut:
    """Counts what a reader leaves out, by reason, and keeps the names."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def lines(self, shown: int = 3) -> Iterator[str]:
        """A line a reason with the first few names."""
        for reason, names in self.names.items():
            more = ", …" if len(names) > shown else ""
            yield f"left out {len(names):,}, {reason}: {', '.join(names[:shown])}{more}"
