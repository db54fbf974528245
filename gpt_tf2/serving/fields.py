"""The fields of a JSON body: what each accepts, and how OpenAPI describes that. A dataclass of them is a request."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from gpt_tf2.serving.api_errors import ApiError

Request = TypeVar("Request")
MOST = 2**63 - 1


class Field(Protocol):
    """A kind of value."""

    @property
    def about(self) -> str:
        """What the value says, in a phrase."""

    def read(self, value: Any, name: str) -> Any:
        """The value as the request holds it. Raises ApiError, naming the field, if it is of another kind."""

    def schema(self) -> dict[str, Any]:
        """The same in JSON Schema."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number, or a whole one, in a range."""

    about: str
    least: float = 0
    most: float = MOST
    whole: bool = False
    above: bool = False  # whether `least` itself is excluded
    below: bool = False  # whether `most` itself is excluded

    def read(self, value: Any, name: str) -> Any:
        if self.whole and isinstance(value, float) and value.is_integer():
            value = int(value)  # 1.0 is an integer in JSON
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not self._has(value):
            raise ApiError(f"{name}: use {self._describe()}", name)
        return value

    def _has(self, value: Any) -> bool:
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return low and high and math.isfinite(value)

    def _describe(self) -> str:
        low = f"above {self.least:g}" if self.above else f"{self.least:g} or more"
        high = f"below {self.most:g}" if self.below else f"at most {self.most:g}"
        return ("a whole number, " if self.whole else "a number, ") + (f"{low}, {high}" if self.most < MOST else low)

    def schema(self) -> dict[str, Any]:
        low, high = "exclusiveMinimum" if self.above else "minimum", "exclusiveMaximum" if self.below else "maximum"
        return {"type": "integer" if self.whole else "number", low: self.least, high: self.most}


@dataclasses.dataclass(frozen=True)
class Switch:
    """True or false."""

    about: str

    def read(self, value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            raise ApiError(f"{name}: use true or false", name)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclasses.dataclass(frozen=True)
class Text:
    """A text. A lone surrogate in it, which UTF-8 cannot hold, becomes U+FFFD."""

    about: str
    least: int = 0  # characters

    def read(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) < self.least:
            raise ApiError(f"{name}: use a text{' that is not empty' if self.least else ''}", name)
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": self.least}


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of values of one kind. A tuple in the request."""

    about: str
    of: Field
    least: int = 0
    most: int = MOST

    def read(self, value: Any, name: str) -> tuple:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            length = f"{self.least} to {self.most} items" if self.most < MOST else f"{self.least} items or more"
            raise ApiError(f"{name}: use a list of {length}", name)
        return tuple(self.of.read(item, name) for item in value)

    def schema(self) -> dict[str, Any]:
        schema = {"type": "array", "items": self.of.schema(), "minItems": self.least}
        return schema | ({"maxItems": self.most} if self.most < MOST else {})


@dataclasses.dataclass(frozen=True)
class Either:
    """A value of the first kind that accepts it."""

    about: str
    kinds: tuple[Field, ...]
    words: str  # what all of them are together, for messages

    def read(self, value: Any, name: str) -> Any:
        for kind in self.kinds:
            try:
                return kind.read(value, name)
            except ApiError:
                continue
        raise ApiError(f"{name}: use {self.words}", name)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


@dataclasses.dataclass(frozen=True)
class Biases:
    """An object from token ids to numbers. A dictionary from int to float in the request."""

    about: str
    most: float = 100

    def read(self, value: Any, name: str) -> dict[int, float]:
        number = Number("", -self.most, self.most)
        if not isinstance(value, dict) or not all(id.isascii() and id.isdigit() and len(id) < 10 for id in value):
            raise ApiError(f"{name}: use an object from token ids to numbers", name)
        return {int(id): number.read(bias, name) for id, bias in value.items()}

    def schema(self) -> dict[str, Any]:
        numbers = {"type": "number", "minimum": -self.most, "maximum": self.most}
        return {"type": "object", "propertyNames": {"pattern": "^[0-9]{1,9}$"}, "additionalProperties": numbers}


@dataclasses.dataclass(frozen=True)
class Nested:
    """An object whose fields are those of another request."""

    about: str
    request: type

    def read(self, value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise ApiError(f"{name}: use an object", name)
        return read_request(self.request, value, f"{name}.")

    def schema(self) -> dict[str, Any]:
        return describe_request(self.request)


@dataclasses.dataclass(frozen=True)
class Messages:
    """A list of messages with roles, which the model's own template reads later."""

    about: str

    def read(self, value: Any, name: str) -> list:
        if not isinstance(value, list) or not value:
            raise ApiError(f"{name}: use a list of messages, each with a role and a content", name)
        return value

    def schema(self) -> dict[str, Any]:
        text = {"type": "object", "required": ["type", "text"], "properties": {"text": {"type": "string"}}}
        content = {"anyOf": [{"type": "string"}, {"type": "array", "items": text}]}
        role = {"enum": ["system", "developer", "user", "assistant"]}
        properties = {"role": role, "content": content}
        return {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["role", "content"], "properties": properties},
        }


@dataclasses.dataclass(frozen=True)
class Unsupported:
    """A field of OpenAI's that only its neutral values are accepted of, so that nobody believes that it works."""

    about: str
    neutral: tuple = ()

    def read(self, value: Any, name: str) -> None:
        if isinstance(value, bool) or value not in self.neutral:
            raise ApiError(f"{name}: not supported here: leave it out", name, code="unsupported_parameter")

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.neutral)}


def field(kind: Field, default: Any = None) -> Any:
    """A dataclass field that a JSON body may have; null stands for its default.

    default: dataclasses.MISSING makes it required.
    """
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"json": kind})
    return dataclasses.field(default=default, metadata={"json": kind})


def read_request(request: type[Request], body: Mapping[str, Any], prefix: str = "") -> Request:
    """A request out of a JSON object, whose unknown fields are ignored.

    prefix: what the names in messages begin with.

    Raises ApiError, naming the field, if one is missing, of a wrong kind or out of range.
    """
    values = {}
    for declared in dataclasses.fields(request):  # type: ignore[arg-type]
        value = body.get(declared.name)
        if value is not None:
            values[declared.name] = declared.metadata["json"].read(value, prefix + declared.name)
        elif declared.default is dataclasses.MISSING:
            raise ApiError(f"{prefix}{declared.name}: required", prefix + declared.name)
    return request(**values)


def describe_request(request: type) -> dict[str, Any]:
    """The JSON Schema of a request."""
    properties, required = {}, []
    for declared in dataclasses.fields(request):
        kind = declared.metadata["json"]
        if declared.default is dataclasses.MISSING:
            required.append(declared.name)
            properties[declared.name] = kind.schema() | {"description": kind.about}
        else:
            properties[declared.name] = {"anyOf": [kind.schema(), {"type": "null"}], "description": kind.about}
            if declared.default is not None:
                properties[declared.name]["default"] = declared.default
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})
