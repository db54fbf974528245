"""The bodies of requests: the fields of OpenAI's API, and those that others have added to it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.fields import Biases, Either, Items, Messages, Nested, Number, Switch, Text, Unsupported, field

MOST_COMPLETIONS = 128  # of one request, as with OpenAI
MOST_LOGPROBS = 20
MOST_IDS = 1 << 17  # of one prompt; far above every context, and read in a fraction of a second

TEXT = Text("")
IDS = Items("", Number("", whole=True), least=1, most=MOST_IDS)
MODEL = Text("the model's name, as /v1/models lists it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What a stream contains."""

    include_usage: bool = field(Switch("end with a chunk that counts the tokens"), False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """The fields that say how a text is generated."""

    model: str | None = field(MODEL)
    temperature: float = field(Number("0 takes the most likely token, higher values vary more", most=2), 1.0)
    top_p: float = field(Number("sample from the most likely tokens with this probability in all", most=1), 1.0)
    top_k: int = field(Number("sample from the K most likely tokens, 0: from all", whole=True), 0)
    min_p: float = field(
        Number("drop tokens with less than this fraction of the top token's probability", most=1, below=True), 0.0
    )
    repetition_penalty: float = field(Number("above 1, makes tokens that occurred less likely", 0.001, 1000), 1.0)
    presence_penalty: float = field(Number("lowers the logits of tokens that were generated", -2, 2), 0.0)
    frequency_penalty: float = field(Number("the same for each time a token was generated", -2, 2), 0.0)
    logit_bias: dict[int, float] | None = field(Biases("numbers to add to the logits of tokens, by their ids"))
    n: int = field(Number("completions of each prompt", 1, MOST_COMPLETIONS, whole=True), 1)
    seed: int | None = field(Number("of the samples, to reproduce them", whole=True))
    stop: Any = field(
        Either(
            "a text that ends a completion, or up to 4 of them",
            (Text("", least=1), Items("", Text("", least=1), most=4)),
            "a text that is not empty, or a list of up to 4 of them",
        ),
        (),
    )
    min_tokens: int = field(Number("fewest tokens to generate", whole=True), 0)
    ignore_eos: bool = field(Switch("go on where the model would end the text"), False)
    stream: bool = field(Switch("send the text while it is generated, as server-sent events"), False)
    stream_options: StreamOptions | None = field(Nested("what a stream contains", StreamOptions))

    def __post_init__(self) -> None:
        if self.stream_options and not self.stream:
            raise ApiError("stream_options: only with stream: true", "stream_options")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a completion."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def counts_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionRequest(SamplingRequest):
    """The body of `POST /v1/completions`."""

    prompt: Any = field(
        Either(
            "a text to continue, a list of texts, token ids, or a list of them (none: a new text)",
            (TEXT, Items("", TEXT, 1, MOST_COMPLETIONS), IDS, Items("", IDS, 1, MOST_COMPLETIONS)),
            f"a text, token ids, or a list of up to {MOST_COMPLETIONS} of either",
        ),
        "",
    )
    max_tokens: int = field(Number("most tokens to generate", whole=True), 16)
    logprobs: int | None = field(
        Number("report each token's log-probability, and those of the K most likely", 0, MOST_LOGPROBS, whole=True)
    )
    echo: bool = field(Switch("begin each text with its prompt, which logprobs then scores"), False)
    suffix: None = field(Unsupported("not supported"))
    best_of: None = field(Unsupported("not supported above 1", (1,)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_tokens > self.max_tokens:
            raise ApiError(f"min_tokens: use at most {self.max_tokens}, the max_tokens", "min_tokens")
        count = self.n * len(self.prompts)
        if count > MOST_COMPLETIONS:
            raise ApiError(f"n: {count} completions in all: use at most {MOST_COMPLETIONS}", "n")

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [list(self.prompt)]
        return [prompt if isinstance(prompt, str) else list(prompt) for prompt in self.prompt]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatRequest(SamplingRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: list = field(Messages("the chat so far, which a message of the user ends"), dataclasses.MISSING)
    max_tokens: int | None = field(
        Number("most tokens to generate (none: what the context has room for)", 1, whole=True)
    )
    max_completion_tokens: int | None = field(Number("another name of max_tokens", 1, whole=True))
    logprobs: bool = field(Switch("report each token's log-probability"), False)
    top_logprobs: int | None = field(
        Number("with logprobs, also those of the K most likely tokens", 0, MOST_LOGPROBS, whole=True)
    )
    tools: None = field(Unsupported("not supported", ([],)))
    tool_choice: None = field(Unsupported("not supported", ("none",)))
    functions: None = field(Unsupported("not supported", ([],)))
    response_format: None = field(Unsupported("not supported but for text", ({"type": "text"},)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("top_logprobs: only with logprobs: true", "top_logprobs")

    def complete(self, ids: Sequence[int], stops: Sequence[str], n_ctx: int) -> CompletionRequest:
        """The completion of a prompt that answers this.

        Args:
            stops: texts that end a reply in any case.
        """
        shared = {declared.name: getattr(self, declared.name) for declared in dataclasses.fields(SamplingRequest)}
        most = [number for number in (self.max_tokens, self.max_completion_tokens) if number is not None]
        return CompletionRequest(
            **shared | {"stop": (*self.stops, *stops)},
            prompt=tuple(ids),
            max_tokens=min(most, default=n_ctx),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizeRequest:
    """The body of `POST /tokenize`."""

    model: str | None = field(MODEL)
    prompt: str = field(Text("the text to split into tokens"), dataclasses.MISSING)
    return_token_strs: bool = field(Switch("also list the tokens' texts"), False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetokenizeRequest:
    """The body of `POST /detokenize`."""

    model: str | None = field(MODEL)
    tokens: tuple[int, ...] = field(Items("token ids", Number("", whole=True), most=MOST_IDS), dataclasses.MISSING)
