"""How the next token is chosen: rules, one small frozen dataclass each, narrow the logits, then a token is drawn."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gpt_tf2.decoding.decoder import Choice
from gpt_tf2.decoding.kernels.drawing import choose_token, cut_nucleus, cut_top, draw_token

LEAST_TEMPERATURE = 1e-30  # a quotient by less may be beyond float32


class Rule(Protocol):
    """Changes the logits of the next token of one sequence."""

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Returns new logits; those passed in stay as they are.

        Args:
            logits: float32 [n_vocab], of the token after `ids`; -inf rules a token out.
            ids: the sequence so far, the prompt included.
        """


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Makes repeated tokens less likely: divides a positive logit, multiplies others (Keskar et al. 2019, 4.1)."""

    penalty: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        used = np.unique(np.asarray(ids, "int64"))
        result = logits.copy()
        result[used] = np.where(logits[used] > 0, logits[used] / self.penalty, logits[used] * self.penalty)
        return result


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Divides the logits: a temperature below 1 sharpens the distribution, one above 1 flattens it."""

    temperature: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        return logits / np.float32(self.temperature)


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps the `k` most likely tokens (Fan et al. 2018, section 5.4)."""

    k: int

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        if self.k >= len(logits):
            return logits
        result = logits.copy()
        cut_top(result, self.k, np.empty_like(logits))
        return result


@dataclasses.dataclass(frozen=True)
class Nucleus:
    """Keeps the smallest set of most likely tokens with total probability `p` or more (Holtzman et al. 2020, 3.1)."""

    p: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        if self.p >= 1:
            return logits
        result = logits.copy()
        cut_nucleus(result, self.p, np.empty_like(logits))
        return result


@dataclasses.dataclass(frozen=True)
class MinP:
    """Keeps tokens with at least `p` times the top token's probability (Nguyen et al. 2024, section 3)."""

    p: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        return np.where(logits >= logits.max() + np.float32(np.log(self.p)), logits, -np.inf).astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class MinimumLength:
    """Rules out the end of the text until the sequence, prompt included, has a number of tokens.

    end: the end-of-text id. tokens: that number.
    """

    end: int
    tokens: int

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        if len(ids) >= self.tokens:
            return logits
        result = logits.copy()
        result[self.end] = -np.inf
        return result


@dataclasses.dataclass(frozen=True)
class LogitBias:
    """Adds a number to the logits of some tokens: OpenAI's `logit_bias`.

    ids: distinct token ids. biases: the number for each.
    """

    ids: tuple[int, ...]
    biases: tuple[float, ...]

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        result = logits.copy()
        result[list(self.ids)] += np.asarray(self.biases, logits.dtype)
        return result


@dataclasses.dataclass(frozen=True)
class PresencePenalty:
    """Subtracts a number from the logit of each token that was generated: OpenAI's `presence_penalty`.

    prompt_tokens: the length of the prompt, whose tokens do not count.
    """

    penalty: float
    prompt_tokens: int

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        result = logits.copy()
        result[list(set(ids[self.prompt_tokens :]))] -= np.float32(self.penalty)
        return result


@dataclasses.dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts a number from a token's logit for each time it was generated: OpenAI's `frequency_penalty`.

    prompt_tokens: the length of the prompt, whose tokens do not count.
    """

    penalty: float
    prompt_tokens: int

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        result = logits.copy()
        used, counts = np.unique(np.asarray(ids[self.prompt_tokens :], "int64"), return_counts=True)
        result[used] -= np.float32(self.penalty) * counts.astype("float32")
        return result


CHOSEN_BY = {Temperature: "temperature", TopK: "top_k", Nucleus: "top_p", MinP: "min_p"}  # fields of a `Choice`


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Applies rules in order, then draws a token, or takes the most likely one if `greedy`.

    Example:
        >>> sampler = make_sampler(temperature=0)
        >>> sampler.choose(np.array([0.1, 2.0, 0.3], "float32"), ids=[], generator=np.random.default_rng(0))
        1
    """

    rules: tuple[Rule, ...] = ()
    greedy: bool = False

    def apply_rules(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Logits [n_vocab] of the token after `ids`, as the rules leave them."""
        for rule in self.rules:
            logits = rule(logits, ids)
        return logits

    def as_choice(self) -> Choice | None:
        """The same rules as a `Choice`; None where other rules, another order or a subclass need the logits."""
        names = [CHOSEN_BY.get(type(rule), "") for rule in self.rules]
        if type(self) is not Sampler or names != [name for name in Choice._fields if name in names]:
            return None
        if self.greedy:
            return Choice(temperature=0)
        return Choice(**{name: next(iter(vars(rule).values())) for name, rule in zip(names, self.rules, strict=True)})

    def choose(self, logits: np.ndarray, ids: Sequence[int], generator: np.random.Generator) -> int:
        """The id of the token after `ids`. Takes exactly one number from `generator`, none if greedy."""
        if (choice := self.as_choice()) and not self.greedy:
            numbers = np.array(choice, "float64")
            return choose_token(logits.copy(), numbers, generator.random(), np.empty_like(logits))
        logits = self.apply_rules(logits, ids)
        return int(np.argmax(logits)) if self.greedy else draw_token(logits, generator.random(), np.empty_like(logits))


def make_sampler(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Sampler:
    """A sampler with the usual rules, in this order: repetition penalty, temperature, top-k, nucleus, min-p.

    Each later rule sees what the earlier ones leave. The defaults leave a rule out. Temperature 0, or as good as 0, and
    top-k 1 are greedy.
    """
    rules: list[Rule] = []
    if repetition_penalty != 1:
        rules.append(RepetitionPenalty(repetition_penalty))
    if temperature < LEAST_TEMPERATURE or top_k == 1:
        return Sampler(tuple(rules), greedy=True)
    if temperature != 1:
        rules.append(Temperature(temperature))
    if top_k:
        rules.append(TopK(top_k))
    if top_p < 1:
        rules.append(Nucleus(top_p))
    if min_p:
        rules.append(MinP(min_p))
    return Sampler(tuple(rules))


def peek_numbers(generator: np.random.Generator, count: int) -> np.ndarray:
    """The numbers in [0, 1) that the next draws take, float64 [count]. The generator stays as it is."""
    before = generator.bit_generator.state
    numbers = generator.random(count)
    generator.bit_generator.state = before
    return numbers
