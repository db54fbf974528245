"""Complete many prompts with a loop on the device, on JAX: the host sees tokens, never logits.

Between two calls of the device the host hands out the new tokens, and free slots to the requests that wait.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gpt_tf2.decoding.decoder import NO_IDS
from gpt_tf2.decoding.device_graph import (
    MAX_STEPS,
    Admission,
    Slots,
    admit,
    begin,
    extend_room,
    read_weights,
    run_steps,
)
from gpt_tf2.decoding.device_rules import Rules, Settings, leave_out
from gpt_tf2.generation.prefixes import count_shared
from gpt_tf2.generation.sampling import (
    MinimumLength,
    MinP,
    Nucleus,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
)
from gpt_tf2.generation.scheduler import DRAFT_TOKENS, BaseScheduler, Request
from gpt_tf2.model import GPT2

# Every shape is compiled once, which takes seconds: few shapes, and some padding.
CAPACITIES = (256, 512)  # positions that a cache has room for; the last step is n_ctx
WIDTHS = (32, 128, 512)  # tokens that prompts are padded to; the last step is the cache's capacity
GROUPS = (64, 16, 4, 1)  # prompts that are computed together
PREFILL_TOKENS = 16_384  # most tokens of a group, for the memory of its attention scores
FIRST_STEPS = 4  # in the first call after a request begins: the first tokens are shown soon
STEPS_WHILE_WAITING = 8  # most steps of a call while requests wait for a slot

RULE_ORDER = (MinimumLength, RepetitionPenalty, Temperature, TopK, Nucleus, MinP)


@dataclasses.dataclass(eq=False)
class RunningRequest:
    """A request in a slot.

    generated: how many tokens it has, or will have after the calls in progress, unless it ends before; draft tokens
        are not counted.
    running: False once it is finished.
    """

    request: Request
    generated: int = 0
    running: bool = True


class DeviceScheduler(BaseScheduler):
    """Completes requests like `Scheduler`, by a loop on the device that runs many steps per call.

    Which tokens a request gets depends on the request alone, up to rounding. They are not those that `Scheduler` draws
    with the same generator: the device draws by a 32-bit seed, which is all that is taken from `request.generator`.

    Args:
        model: the network. Each run uses its current weights.
        end: the id that ends a completion.
        slots: how many requests run at a time.
        draft: whether to propose draft tokens and verify several per step: speculative decoding by prompt lookup.
        undrawn: the ids without a token, which are never drawn.

    Example:
        >>> scheduler = DeviceScheduler(model, tokenizer.end_of_text, slots=64)
        >>> requests = [Request(prompt, 100, sampler, generator, ids.append) for prompt, ids in zip(prompts, texts)]
        >>> scheduler.run_all(requests)
    """

    def __init__(self, model: GPT2, end: int, slots: int, draft: bool = False, undrawn: np.ndarray = NO_IDS):
        super().__init__()
        self.model, self.end, self.slots, self.undrawn = model, end, slots, undrawn
        self._draft_tokens = DRAFT_TOKENS if draft else 0
        self._rules = Rules()  # that any request so far needs
        self._state: Slots | None = None
        self._running: list[RunningRequest | None] = [None] * slots
        self._positions = 0  # that the longest of them needs
        self._cached: list[list[int]] = [[] for _ in range(slots)]  # ids whose keys and values a slot has
        self._values: list[Any] = []  # the weights that computed them
        self._callers_stop = False  # whether an `on_token` has ended a completion

    def submit(self, request: Request, first: bool = False) -> None:
        """Adds a request. Raises ValueError if its sampler has rules that the device does not; see `runs_on_device`."""
        if not runs_on_device(request.sampler, self.end):
            raise ValueError(f"{request.sampler} cannot run on the device")
        self._rules |= rules_of(request.sampler)
        self._positions = max(self._positions, len(request.prompt) + request.max_new_tokens)
        super().submit(request, first)

    def _stop(self, request: Request) -> None:
        for slot, running in enumerate(self._running):
            if running is not None and running.request is request:
                running.running, self._running[slot] = False, None

    def steps(self) -> Iterator[Request | None]:
        weights = read_weights(self.model)
        values = [variable.value for variable in self.model.variables]
        if list(map(id, values)) != list(map(id, self._values)):
            self._cached = [[] for _ in range(self.slots)]  # keys and values of other weights
        self._values, self._running = values, [None] * self.slots
        ahead: tuple[Any, list[RunningRequest | None]] | None = None
        while True:
            self._fill_slots(weights)
            if not any(self._running):
                return
            result, sequences = ahead or self._start_call(weights)
            tokens, counts, left = jax.device_get(result)
            ends = any(x and x.running and left[slot] == 0 for slot, x in enumerate(sequences))
            # The device goes on while the host hands out tokens, unless a slot is likely to get another request first.
            ahead = None if ends or self._callers_stop else self._start_call(weights)
            for slot, running in enumerate(sequences):
                if running is None or not running.running:
                    continue
                new = tokens[slot, : counts[slot]].tolist()
                self._cached[slot] += new
                self._hand_out(running, new)
                if left[slot] == 0 or not running.running:
                    running.running = False
                    self._running[slot] = None
                    yield running.request
            yield None

    def _hand_out(self, running: RunningRequest, tokens: list[int]) -> None:
        """Pass new tokens to a request's caller, until it wants no more."""
        for id in tokens:
            if running.request.on_token(id) is False:
                running.running, self._callers_stop = False, True
                return

    def _start_call(self, weights: Any) -> tuple[Any, list[RunningRequest | None]]:
        """Start the next steps of the device. Returns the results to come, and the requests in the slots."""
        youngest = min(running.generated for running in self._running if running)
        steps = max(FIRST_STEPS, min(2 * youngest, STEPS_WHILE_WAITING if self._waiting else MAX_STEPS))
        for running in self._running:
            if running:
                running.generated += steps
        keep = np.array([running is not None for running in self._running])
        self._state, result = run_steps(
            weights,
            self._state,
            keep,
            np.int32(steps),
            np.int32(self.end),
            self.undrawn,
            n_head=self.model.config.n_head,
            rules=self._rules,
            draft_tokens=self._draft_tokens,
        )
        return result, list(self._running)

    def _fill_slots(self, weights: Any) -> None:
        """Start waiting requests in free slots. Equal prompts, and prompts of similar length, are computed together."""
        free = [slot for slot, running in enumerate(self._running) if running is None]
        entering: dict[int, Request] = {}
        while free and self._waiting:
            request = self._waiting.popleft()
            slot = max(free, key=lambda slot: count_shared(request.prompt, self._cached[slot]))
            free.remove(slot)
            entering[slot] = request
            self._running[slot] = RunningRequest(request)
        if not entering:
            return
        capacity = self._make_room(weights)
        shapes: dict[tuple[int, int], dict[tuple[int, ...], list[int]]] = {}  # widths → prompt → slots
        prefixes: dict[tuple[int, ...], tuple[int, int]] = {}  # prompt → slot to copy from, and how many tokens
        others = [slot for slot in range(self.slots) if slot not in entering]  # these and its own keep what they have
        for slot, request in entering.items():
            prompt = tuple(request.prompt)
            if prompt not in prefixes:
                shared, source = max((count_shared(prompt[:-1], self._cached[i]), i) for i in [*others, slot])
                prefixes[prompt] = source, shared
            width = round_up(len(prompt), WIDTHS, capacity)
            rest = round_up(len(prompt) - prefixes[prompt][1], WIDTHS, capacity)
            shapes.setdefault((width, rest), {}).setdefault(prompt, []).append(slot)
        for (width, rest), prompts in shapes.items():
            for group in split(list(prompts), PREFILL_TOKENS // width):
                copied = [prefixes[prompt] for prompt in group] if rest < width else None
                numbers = {slot: number for number, prompt in enumerate(group) for slot in prompts[prompt]}
                self._admit(weights, group, width, rest, copied, numbers, entering)
        for slot, request in entering.items():
            self._cached[slot] = list(request.prompt)

    def _make_room(self, weights: Any) -> int:
        """Make the state fit all requests so far. Returns the positions that it has room for."""
        n_head, penalizes = self.model.config.n_head, self._rules.penalizes
        capacity = round_up(self._positions, CAPACITIES, self.model.config.n_ctx)
        if self._state is None:
            self._state = begin(weights, self.slots, capacity, n_head, bool(self._draft_tokens), penalizes)
        elif capacity > self._state.cache[0][0].shape[2] or penalizes > (self._state.used is not None):
            self._state = extend_room(self._state, capacity, penalizes)
        return capacity

    def _admit(
        self,
        weights: Any,
        prompts: Sequence[tuple[int, ...]],
        width: int,
        rest: int,
        copied: list[tuple[int, int]] | None,
        numbers: dict[int, int],
        entering: dict[int, Request],
    ) -> None:
        """Put requests into slots.

        Args:
            prompts: distinct ones, padded to `width` tokens.
            copied: for each prompt, the slot that has a prefix of it, and how many tokens to copy; what follows is
                padded to `rest` tokens. None: compute the prompts whole.
            numbers: for each slot, the number of its prompt.
        """
        prefixes = None
        if copied:
            sources, counts = np.array(copied, "int32").T
            prefixes = sources, counts, pad([p[count:] for p, count in zip(prompts, counts, strict=True)], rest)
        size = 1
        while size < len(numbers):
            size *= 4
        size = min(size, self.slots)  # a few sizes only; what they have too much goes nowhere
        settings = leave_out(size)
        targets = np.full(size, self.slots, "int32")
        rows, left, seeds = (np.zeros(size, kind) for kind in ("int32", "int32", "uint32"))
        for i, (slot, number) in enumerate(numbers.items()):
            request = entering[slot]
            targets[i], rows[i] = slot, number
            left[i] = min(request.max_new_tokens, self.model.config.n_ctx - len(request.prompt))
            write_settings(request.sampler, settings, i)
            if not request.sampler.greedy:
                seeds[i] = request.generator.integers(2**32, dtype="uint32")
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        admission = Admission(targets, rows, left, seeds, settings)
        n_head = self.model.config.n_head
        self._state = admit(weights, self._state, pad(prompts, width), lengths, prefixes, admission, n_head=n_head)


def runs_on_device(sampler: Sampler, end: int) -> bool:
    """Whether the device has a sampler's rules, and in this order: those of `make_sampler`, after a minimum length.

    A subclass of `Sampler` does not run there: it may read logits, which stay on the device.

    end: the id that ends a completion, for the device the same as in a minimum length.
    """
    if type(sampler) is not Sampler:
        return False
    if any(isinstance(rule, MinimumLength) and rule.end != end for rule in sampler.rules):
        return False
    kinds = [type(rule) for rule in sampler.rules]
    return kinds == [kind for kind in RULE_ORDER if kind in kinds]


def rules_of(sampler: Sampler) -> Rules:
    """The rules that must be compiled for a sampler."""
    kinds = {type(rule) for rule in sampler.rules}
    draws = not sampler.greedy
    return Rules(draws, RepetitionPenalty in kinds, draws and TopK in kinds, draws and Nucleus in kinds)


def write_settings(sampler: Sampler, settings: Settings, number: int) -> None:
    """Write a sampler's rules into the arrays of settings, at the number of its sequence."""
    settings.greedy[number] = sampler.greedy
    for rule in sampler.rules:
        if isinstance(rule, MinimumLength):
            settings.fewest[number] = rule.tokens
        elif isinstance(rule, RepetitionPenalty):
            settings.penalty[number] = rule.penalty
        elif isinstance(rule, Temperature):
            settings.temperature[number] = rule.temperature
        elif isinstance(rule, TopK):
            settings.top_k[number] = rule.k
        elif isinstance(rule, Nucleus):
            settings.top_p[number] = rule.p
        elif isinstance(rule, MinP):
            settings.min_p[number] = rule.p


def round_up(count: int, sizes: Sequence[int], largest: int) -> int:
    """The first of the sizes that is `count` or more, `largest` if none is."""
    return next((size for size in sizes if count <= size < largest), largest)


def pad(sequences: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Ids [R, width] of sequences, with zeros after them."""
    ids = np.zeros((len(sequences), width), "int32")
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids


def split(items: list[Any], most: int) -> Iterator[list[Any]]:
    """Yields items in groups of a few sizes, each the largest one not above `most`; at least one item."""
    while items:
        size = next(size for size in GROUPS if size <= max(1, min(most, len(items))))
        yield items[:size]
        items = items[size:]
