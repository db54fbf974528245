"""A loaded model: `gpt_tf2.load`, which generates, streams and scores texts, as often as is wanted."""

import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar, overload

import numpy as np

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.formats import check_format, try_to_locate
from gpt_tf2.checkpoints.opened import OpenedModel, save_model
from gpt_tf2.commands.decoders import find_model
from gpt_tf2.commands.flags import make_settings, suggest
from gpt_tf2.commands.generate import GenerateSettings
from gpt_tf2.commands.model_settings import ModelSettings
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.engine import open_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.logprobs import score_tokens
from gpt_tf2.generation.completions import CompletionRules, Prompt, check_prompt, complete_prompts, encode_prompt

if TYPE_CHECKING:
    from typing import Unpack  # Python 3.11

    from gpt_tf2.model import GPT2

Item = TypeVar("Item")
Texts = list[str] | tuple[str, ...]
logger = logging.getLogger("gpt_tf2")


def load(
    model: str | Path,
    *,
    precision: str = "auto",
    quantize: str | None = None,
    engine: str = "auto",
    offline: bool = False,
    base: str | Path | None = None,
) -> "LanguageModel":
    """Loads a model, to be used many times.

    Nothing is printed, but for the progress of a download on stderr. What is worth a line, such as the
    conversion of a model on its first use on a CPU, goes to the logger `gpt_tf2` as information.

    Args:
        model: a released size, such as "124M", a path (a file, a folder, or the prefix of a TF1 checkpoint), or
            `hf://owner/name[@revision]`.
        precision: "float32" or "bfloat16", to generate in. "auto": bfloat16 on a GPU, float32 on a CPU.
        quantize: "int8" on a CPU: half the memory, three times as fast. The logger is told what it costs in perplexity.
        engine: "native" or "litert" on a CPU, or "graph" (Keras). "auto": the fastest here; Keras where it runs on JAX.
        offline: whether to refuse to download a model that is not on this machine.
        base: the model that adapters belong to, if it is not where they say.

    Raises InputError, naming the parameter or the file, if there is no such model, or if it cannot run here.

    Example:
        >>> lm = gpt_tf2.load("124M")  # doctest: +SKIP
        >>> lm.generate("The tide", max_new_tokens=20, seed=1)  # doctest: +SKIP
    """
    given = {"model": model, "precision": precision, "quantize": quantize, "engine": engine}
    settings = make_settings(ModelSettings, {**given, "offline": offline, "base": base})
    opened, chosen = find_model(settings)
    decoder = open_decoder(opened, chosen, quantize or precision, logger.info, lambda done, total: None, drafts=True)
    return LanguageModel(opened, decoder, exact=precision != "auto" or decoder.precision != "bfloat16")


class Rules(TypedDict, total=False):
    """How a text is generated: the keywords that `LanguageModel.generate` and `LanguageModel.stream` share."""

    max_new_tokens: int
    min_length: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str] | None
    draft: bool
    beyond_context: bool
    include_prompt: bool


class TokenLogprob(NamedTuple):
    """A token of a text: its text (U+FFFD for part of a character), its id, and its log-probability in nats."""

    token: str
    id: int
    logprob: float


class LanguageModel:
    """A model with its vocabulary, loaded once and used many times. `load` makes one.

    Threads may share it, and each gets the texts and figures that it would get alone. They take turns, step by step: a
    step, which adds a token or a few to every text of a call, has the model to itself. A stream runs a step when its
    reader asks for text, so nobody waits for a reader. The stream itself belongs to one thread. Taking turns is no
    faster than one call after another: to generate many texts, give `generate` a list.

    Attributes:
        path: the checkpoint's file, or the prefix of a TF1 checkpoint.
        config: the hyper-parameters.
        tokenizer: the vocabulary.

    Example:
        >>> lm = gpt_tf2.load("124M")  # doctest: +SKIP
        >>> lm.perplexity("The tide counted the boats home.")  # doctest: +SKIP
    """

    def __init__(self, opened: OpenedModel, decoder: Decoder, exact: bool = True):
        """Args: exact: whether `decoder` computes probabilities in the precision that was asked for."""
        self.path, self.config, self.tokenizer = opened.path, opened.config, opened.tokenizer
        self._opened, self._decoder, self._exact = opened, decoder, exact
        self._lock = threading.RLock()  # held during a step of a decoder, never between two
        self._model: GPT2 | None = None
        self._exact_decoder: Decoder | None = None

    def __repr__(self) -> str:
        return f"<LanguageModel {self.path}, {self._decoder.name}>"

    @property
    def model(self) -> "GPT2":
        """The network, a `keras.Model` with float32 weights; built when it is first asked for.

        Where the Keras graph generates in float32, this is the network that generates: a change of its weights shows
        at once. Otherwise `save` it and load it again.

        Raises InputError if the checkpoint has changed since it was loaded.
        """
        with self._lock:
            if self._model is None:
                start_backend()
                from gpt_tf2.decoding.keras_graph import GraphDecoder

                if isinstance(self._decoder, GraphDecoder) and self._decoder.precision == "float32":
                    self._model = self._decoder.model
                else:
                    self._model = self._opened.load()
            return self._model

    @overload
    def generate(  # type: ignore[overload-overlap]  # 1 is the default
        self, prompt: str, *, n_samples: Literal[1] = 1, batch_size: int = 8, **rules: "Unpack[Rules]"
    ) -> str: ...
    @overload
    def generate(self, prompt: str, *, n_samples: int, batch_size: int = 8, **rules: "Unpack[Rules]") -> list[str]: ...
    @overload
    def generate(  # type: ignore[overload-overlap]  # 1 is the default
        self, prompt: Texts, *, n_samples: Literal[1] = 1, batch_size: int = 8, **rules: "Unpack[Rules]"
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompt: Texts, *, n_samples: int, batch_size: int = 8, **rules: "Unpack[Rules]"
    ) -> list[list[str]]: ...
    def generate(
        self, prompt: str | Texts, *, n_samples: int = 1, batch_size: int = 8, **rules: "Unpack[Rules]"
    ) -> str | list[str] | list[list[str]]:
        """Continues a text, or each of several.

        The same seed gives the text that `gpt-tf2 generate --seed` prints.

        Args:
            prompt: a text, or a list of texts. An empty one begins a new text. `<|endoftext|>` in it is the token.
            n_samples: samples of each prompt.
            batch_size: samples generated at a time. The text does not depend on it, up to rounding.
            include_prompt: whether each sample begins with its prompt (False).
            max_new_tokens: most tokens to add (100). A sample also ends where the model's context does, unless
                `beyond_context` is true.
            min_length: fewest tokens to add (0).
            temperature: 0 takes the most likely token, higher values vary more (1.0).
            top_k: sample from the K most likely tokens, 0: from all (2 as in the 2019 script, or 0 with `top_p`).
            top_p: sample from the most likely tokens with this probability in all (1.0).
            min_p: drop tokens with less than this fraction of the top token's probability (0.0).
            repetition_penalty: above 1, makes tokens that occurred less likely (1.0).
            seed: of the samples, to reproduce them (another one at each call).
            stop: a text, or a list of texts, that ends a sample and is not part of it.
            draft: also look up draft tokens in the text: faster where text is copied, same output (False).
            beyond_context: when the context is full, whether to go on with the last half of it alone; the model forgets
                what came before, also of a prompt that is too long (False).

        Returns:
            For a text a text, and for a list a list, in which each prompt has its sample. If `n_samples` is above 1, a
            list of samples stands for each sample.

        Raises InputError, naming the parameter, if a value is out of range, or a prompt leaves no room in the context.

        Example:
            >>> lm.generate("The tide", top_p=0.9, seed=1)  # doctest: +SKIP
            >>> lm.generate(["The tide", "A lantern"], n_samples=3, max_new_tokens=20)  # doctest: +SKIP
        """
        one = isinstance(prompt, str) or not isinstance(prompt, Iterable)
        texts: list[Any] = [prompt] if one else list(prompt)
        completion, include_prompt = make_rules(rules, n_samples, batch_size)
        prompts = [
            self._encode(text, completion, "`prompt`" if one else f"`prompt`[{i}]") for i, text in enumerate(texts)
        ]
        steps = complete_prompts(self._decoder, self.tokenizer, prompts, completion)
        samples = [sample.prompt * include_prompt + sample.text for sample in self._take_turns(steps) if sample]
        if n_samples == 1:
            return samples[0] if one else samples
        by_prompt = [samples[i : i + n_samples] for i in range(0, len(samples), n_samples)]
        return by_prompt[0] if one else by_prompt

    def stream(self, prompt: str, **rules: "Unpack[Rules]") -> Iterator[str]:
        """Continues a text, and yields what is added while it is generated.

        Together the pieces are what `generate` returns. Each has whole characters, and what may become a stop text is
        held back. Nothing runs, and the model is free, between two pieces; so the iterator may be left at any time.

        The arguments and the errors are those of `generate`. Errors are raised at once, not with the first piece.

        Example:
            >>> for piece in lm.stream("The tide", seed=1):  # doctest: +SKIP
            ...     print(piece, end="", flush=True)
        """
        completion, include_prompt = make_rules(rules, n_samples=1, batch_size=1)
        return self._yield_pieces(self._encode(prompt, completion), completion, include_prompt)

    def perplexity(self, text: str) -> float:
        """The perplexity of a text, per token: that of `gpt-tf2 evaluate`, for the model in its precision.

        The first token follows the end of text, and each has at least half a context before it, where there is as much.
        With precision "auto" it is computed in float32, unless the model is quantized. The text is scored as it stands;
        of a file `gpt-tf2 evaluate` makes all line ends \\n and drops a byte order mark.

        Raises InputError if the text is empty.

        Example:
            >>> lm.perplexity("The tide counted the boats home.")  # doctest: +SKIP
        """
        scored = self.logprobs(text)
        if not scored:
            raise InputError("empty: give a text to score", "text", "''")
        return math.exp(-math.fsum(logprob for _, _, logprob in scored) / len(scored))

    def logprobs(self, text: str) -> list[TokenLogprob]:
        """The tokens of a text, each with its log-probability given those before it; see `perplexity`.

        Example:
            >>> lm.logprobs("The tide")  # doctest: +SKIP
            [TokenLogprob(token='The', id=464, logprob=-3.3), TokenLogprob(token=' tide', id=17855, logprob=-9.9)]
        """
        ids = self.tokenizer.encode(check_text(text, "text"), allow_special=True)
        if not ids:
            return []
        parts = self._take_turns(score_tokens(self._scorer(), np.array(ids), self.tokenizer.end_of_text))
        logprobs = np.concatenate(list(parts)).tolist()
        return [TokenLogprob(self.tokenizer.decode([id]), id, x) for id, x in zip(ids, logprobs, strict=True)]

    def save(self, path: str | Path) -> None:
        """Writes the weights of `model` in float32 as a checkpoint, with the vocabulary beside it.

        path: `NAME.h5`, `NAME.safetensors` (`FOLDER/model.safetensors` makes a folder that transformers opens), or a
            TF1 checkpoint as prefix `NAME.ckpt` or as a folder.

        Raises InputError if the path names no format, or if a file cannot be written.

        Example:
            >>> gpt_tf2.load("models/124M").save("hf/model.safetensors")  # doctest: +SKIP
        """
        check_format(Path(path))
        replaces = try_to_locate(str(path)) is not None
        save_model(self.model, path, self.tokenizer, self._opened.settings_for(path))
        save_chat_template(self._opened.chat_template, self.tokenizer, Path(path), replaces)

    def _encode(self, text: str, rules: CompletionRules, name: str = "`prompt`") -> Prompt:
        """A text as a prompt; `name` is what errors call it."""
        prompt = encode_prompt(self.tokenizer, check_text(text, "prompt"))
        check_prompt(self._opened, prompt, rules, name)
        return prompt

    def _yield_pieces(self, prompt: Prompt, rules: CompletionRules, include_prompt: bool) -> Iterator[str]:
        """Yields the pieces of a completion, after its prompt if that is included."""
        pieces = [prompt.text] if include_prompt and prompt.text else []
        for _ in self._take_turns(complete_prompts(self._decoder, self.tokenizer, [prompt], rules, pieces.append)):
            yield from pieces
            pieces.clear()

    def _scorer(self) -> Decoder:
        """The decoder that scores texts: the one that generates, but for a bfloat16 that nobody asked for."""
        if self._exact:
            return self._decoder
        with self._lock:
            if self._exact_decoder is None:
                model = self.model  # starts the backend
                from gpt_tf2.decoding.keras_graph import GraphDecoder

                self._exact_decoder = GraphDecoder(model)
            return self._exact_decoder

    def _take_turns(self, steps: Iterator[Item]) -> Iterator[Item]:
        """Yields from an iterator, each step of which has the model to itself."""
        while True:
            with self._lock:
                try:
                    item = next(steps)
                except StopIteration:
                    return
            yield item


def make_rules(given: Rules, n_samples: int, batch_size: int) -> tuple[CompletionRules, bool]:
    """The rules that keywords give, and whether samples begin with their prompts.

    Raises InputError if one is unknown, or a value is out of range.
    """
    rules: dict[str, Any] = {"draft": False, "beyond_context": False, "include_prompt": False, "stop": None, **given}
    for name in rules:
        if name not in Rules.__annotations__:
            raise InputError(f"unknown parameter {name}{suggest(name, Rules.__annotations__)}")
    for name in ("draft", "beyond_context", "include_prompt"):
        if not isinstance(rules[name], bool | np.bool_):
            raise InputError("use True or False", name, repr(rules[name]))
    stops = list_stops(rules.pop("stop"))
    rules["draft"] = "on" if rules["draft"] else "off"
    settings = make_settings(GenerateSettings, {**rules, "n_samples": n_samples, "batch_size": batch_size})
    return settings.rules(stops), settings.include_prompt


def list_stops(stop: Any) -> list[str]:
    """The texts that end a sample. Raises InputError unless it is a text, a list of texts, or None."""
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list | tuple) or not all(isinstance(text, str) and text for text in stops):
        raise InputError("give a text that is not empty, or a list of them", "stop", repr(stop))
    return list(stops)


def check_text(text: Any, name: str) -> str:
    """The text itself. Raises InputError, naming the parameter, if it is none."""
    if not isinstance(text, str):
        raise InputError("use a text" + (" or a list of texts" if name == "prompt" else ""), name, repr(text))
    return text
