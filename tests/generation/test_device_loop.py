"""The loop on the device: its tokens against the full forward pass, its draws against the host's rules, its graphs."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config
from gpt_tf2.decoding.decoder import NO_IDS
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.generation.prompt_lookup import PromptLookup
from gpt_tf2.generation.sampling import (
    MinimumLength,
    MinP,
    Nucleus,
    Rule,
    Sampler,
    Temperature,
    TopK,
    make_sampler,
)
from gpt_tf2.generation.scheduler import Request, Scheduler
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.model import random_tensors
from helpers.processes import run_script

if keras.backend.backend() != "jax":
    pytest.skip("the loop on the device runs on JAX", allow_module_level=True)

import jax

from gpt_tf2.decoding.device_draft import propose
from gpt_tf2.decoding.device_graph import read_weights
from gpt_tf2.decoding.device_rules import apply_rules, draw_tokens, leave_out
from gpt_tf2.generation import device_loop
from gpt_tf2.generation.device_loop import DeviceScheduler, rules_of, write_settings

CONFIG = GPT2Config(n_vocab=300, n_ctx=600, n_embd=48, n_head=3, n_layer=2)
NO_END = -1
GREEDY = make_sampler(0)
EVERY_RULE = make_sampler(0.9, top_k=40, top_p=0.8, min_p=0.01, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2(CONFIG, read=random_tensors(CONFIG, seed=1, std=0.3))


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """50 prompts of unlike lengths; some leave no room for 12 new tokens, and two are equal."""
    draw = np.random.default_rng(5)
    sizes = [
        1,
        2,
        31,
        32,
        33,
        595,
        599,
        *draw.integers(1, 60, 20),
        *draw.integers(60, 240, 12),
        *draw.integers(240, 590, 10),
    ]
    prompts = [draw.integers(0, CONFIG.n_vocab, size).tolist() for size in sizes]
    prompts.insert(20, list(prompts[8]))
    return prompts


def complete(
    model: GPT2,
    prompts: list[list[int]],
    max_new_tokens: int,
    slots: int,
    sampler: Sampler = GREEDY,
    end: int = NO_END,
    draft: bool = False,
    undrawn: np.ndarray = NO_IDS,
) -> list[list[int]]:
    """The completion of each prompt; the i-th draws by the generator of seed i."""
    completions: list[list[int]] = [[] for _ in prompts]
    DeviceScheduler(model, end, slots, draft, undrawn).run_all(
        Request(prompt, max_new_tokens, sampler, np.random.default_rng(i), completion.append)
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    )
    return completions


def most_likely(model: GPT2, ids: list[int]) -> np.ndarray:
    """The most likely token after each, by the full forward pass."""
    return np.asarray(model(np.array([[*ids, *[0] * (CONFIG.n_ctx - len(ids))]])))[0].argmax(-1)[: len(ids)]


@pytest.fixture(scope="module")
def expected(model: GPT2, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy completions of 12 tokens, each verified by a full forward pass over the whole sequence."""
    completions = complete(model, prompts, 12, 1)
    for prompt, completion in zip(prompts, completions, strict=True):
        assert len(completion) == min(12, CONFIG.n_ctx - len(prompt))
        assert completion == most_likely(model, prompt + completion)[len(prompt) - 1 : -1].tolist()
    assert len({tuple(completion) for completion in completions}) > 40
    return completions


@pytest.mark.parametrize(
    ("slots", "draft"),
    [
        (1, False),
        (8, True),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(8, False, marks=pytest.mark.slow),
    ],
)
def test_greedy_tokens_are_those_of_the_full_forward_pass(
    model: GPT2, prompts: list[list[int]], expected: list[list[int]], slots: int, draft: bool
) -> None:
    assert complete(model, prompts, 12, slots, draft=draft) == expected


def test_an_output_matrix_of_its_own_gives_the_tokens(prompts: list[list[int]]) -> None:
    config = dataclasses.replace(CONFIG, tied=False)
    model = GPT2(config, read=random_tensors(config, seed=1, std=0.3))
    for prompt, completion in zip(prompts[:3], complete(model, prompts[:3], 12, 3), strict=True):
        assert completion == most_likely(model, prompt + completion)[len(prompt) - 1 : -1].tolist()


@pytest.mark.parametrize("draft", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ids_without_a_token_are_never_drawn(
    model: GPT2, prompts: list[list[int]], expected: list[list[int]], draft: bool
) -> None:
    undrawn = np.unique(list(itertools.chain(*expected))[::2]).astype("int32")
    some = prompts[7:12]
    for prompt, completion in zip(some, complete(model, some, 12, 3, draft=draft, undrawn=undrawn), strict=True):
        logits = np.array(model(np.array([[*prompt, *completion]])))[0, len(prompt) - 1 : -1]
        logits[:, undrawn] = -np.inf
        assert completion == logits.argmax(-1).tolist()
    sampled = complete(model, some, 60, 3, EVERY_RULE, draft=draft, undrawn=undrawn)
    assert not {*undrawn.tolist()} & {*itertools.chain(*sampled)}
    assert sampled != complete(model, some, 60, 3, EVERY_RULE, draft=draft)


@pytest.mark.parametrize("draft", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sequences_end_early_at_the_end_of_text(
    model: GPT2, prompts: list[list[int]], expected: list[list[int]], draft: bool
) -> None:
    end = int(np.bincount(list(itertools.chain(*expected))).argmax())
    shortened = [ids[: ids.index(end)] if end in ids else ids for ids in expected]
    assert 3 < sum(len(a) < len(b) for a, b in zip(shortened, expected, strict=True)) < 50
    assert complete(model, prompts, 12, 8, end=end, draft=draft) == shortened


@pytest.mark.parametrize("sampler", [pytest.param(GREEDY, marks=pytest.mark.slow), EVERY_RULE])
def test_long_texts_do_not_depend_on_slots_steps_or_drafts(
    model: GPT2, prompts: list[list[int]], sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = prompts[7:14]
    texts = complete(model, some, 150, 3, sampler)
    assert texts == complete(model, some, 150, 7, sampler)
    assert texts == complete(model, some, 150, 3, sampler, draft=True)
    monkeypatch.setattr(device_loop, "FIRST_STEPS", 1)
    monkeypatch.setattr(device_loop, "MAX_STEPS", 3)
    assert texts == complete(model, some, 150, 3, sampler)
    assert sampler.greedy or texts != complete(model, some[::-1], 150, 3, sampler)[::-1]


def test_draft_tokens_are_those_of_the_hosts_prompt_lookup() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 3, (60, 48)).astype("int32")
    lengths = draw.integers(1, 48, 60).astype("int32")
    tokens, counts = propose(jax.numpy.asarray(ids), lengths, 6)
    for row, length, proposed, count in zip(ids, lengths, np.asarray(tokens), np.asarray(counts), strict=True):
        expected = PromptLookup().propose(row[:length].tolist(), 6)
        assert count == (6 if expected else 0) and proposed[: len(expected)].tolist() == expected
    cycle = jax.numpy.asarray([[9, 1, 2, 3, 1, 2, 3, 1, 2, 0, 0, 0]], "int32")
    assert propose(cycle, np.array([9]), 5)[0].tolist() == [[3, 1, 2, 3, 1]]


def test_drafts_save_steps_where_the_text_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The greedy text of a model with small weights repeats itself."""
    model = GPT2(CONFIG, read=random_tensors(CONFIG, seed=1))
    lengths: list[int] = []
    run_steps = device_loop.run_steps

    def count(*arguments, **options):
        state, result = run_steps(*arguments, **options)
        lengths.append(int(result[1][0]))
        return state, result

    monkeypatch.setattr(device_loop, "run_steps", count)
    monkeypatch.setattr(device_loop, "FIRST_STEPS", 4)
    monkeypatch.setattr(device_loop, "MAX_STEPS", 4)
    texts = []
    for draft in (False, True):
        lengths.clear()
        texts += complete(model, [[5, 6, 7]], 200, 1, draft=draft)
        calls = sum(count > 0 for count in lengths)
        assert calls <= 12 if draft else calls == 50
    assert texts[0] == texts[1]


def test_each_request_has_its_own_settings_and_end(model: GPT2, prompts: list[list[int]]) -> None:
    samplers = [
        GREEDY,
        make_sampler(0.7),
        make_sampler(top_k=3),
        make_sampler(top_p=0.5),
        make_sampler(min_p=0.2),
        make_sampler(repetition_penalty=2.0),
        make_sampler(0, repetition_penalty=2.0),
    ]
    alone: list[list[int]] = [[] for _ in samplers]
    together: list[list[int]] = [[] for _ in samplers]

    def request(i: int, completion: list[int]) -> Request:
        return Request(prompts[7 + i], 5 + 7 * i, samplers[i], np.random.default_rng(i), completion.append)

    for i, completion in enumerate(alone):
        DeviceScheduler(model, NO_END, 1).run_all([request(i, completion)])
    DeviceScheduler(model, NO_END, 4).run_all(request(i, completion) for i, completion in enumerate(together))
    assert alone == together and [len(ids) for ids in alone] == [5 + 7 * i for i in range(7)]


def test_samples_of_one_prompt_compute_it_once(
    model: GPT2, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    admit = device_loop.admit
    monkeypatch.setattr(device_loop, "admit", lambda *a, **kw: computed.append(a[2].shape) or admit(*a, **kw))
    samples = complete(model, [prompts[8]] * 5, 20, 5, make_sampler(1.5))
    assert len(computed) == 1 and computed[0][0] == 1
    assert len({tuple(sample) for sample in samples}) == 5
    assert samples == [complete(model, [prompts[8]] * (i + 1), 20, 1, make_sampler(1.5))[i] for i in range(5)]


def test_the_next_turn_of_a_conversation_computes_only_what_is_new(
    model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, ...]] = []
    admit = device_loop.admit
    monkeypatch.setattr(
        device_loop,
        "admit",
        lambda *a, **kw: computed.append((a[2] if a[4] is None else a[4][2]).shape) or admit(*a, **kw),
    )
    draw = np.random.default_rng(2)
    passages = [draw.integers(0, CONFIG.n_vocab, size).tolist() for size in (150, 180)]
    turns: list[list[tuple[list[int], list[int]]]] = [[], []]  # prompts and completions
    scheduler = DeviceScheduler(model, NO_END, 2, draft=True)

    def ask(number: int) -> None:
        earlier = turns[number][-1] if turns[number] else (passages[number], [])
        turns[number].append(([*earlier[0], *earlier[1], 7, len(turns[number])], []))
        prompt, completion = turns[number][-1]
        sampler = make_sampler(0, repetition_penalty=1.5)
        stop = 3 + number  # the caller ends it; the device may have computed more
        on_token = lambda id: completion.append(id) or len(completion) < stop  # noqa: E731
        scheduler.submit(Request(prompt, 20, sampler, np.random.default_rng(0), on_token, tag=number))

    ask(0)
    ask(1)
    for request in scheduler.run():
        if len(turns[request.tag]) < 4:
            ask(request.tag)
    for prompt, completion in itertools.chain(*turns):
        alone: list[int] = []
        sampler = make_sampler(0, repetition_penalty=1.5)
        DeviceScheduler(model, NO_END, 1).run_all(
            [Request(prompt, len(completion), sampler, np.random.default_rng(0), alone.append)]
        )
        assert completion == alone and len(completion) >= 3
    assert computed[:8] == [(1, 256)] * 2 + [(1, 32)] * 6  # the others are those alone


def test_a_caller_ends_a_completion_and_its_slot_goes_to_the_next(
    model: GPT2, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    completions: list[list[int]] = [[] for _ in prompts]
    scheduler = DeviceScheduler(model, NO_END, 4)

    def take(number: int) -> Callable[[int], bool]:
        def on_token(id: int) -> bool:
            completions[number].append(id)
            return len(completions[number]) < number % 5 + 1

        return on_token

    for i, prompt in enumerate(prompts[:30]):
        scheduler.submit(Request(prompt, 12, GREEDY, np.random.default_rng(0), take(i), tag=i))
    finished = [request.tag for request in scheduler.run()]
    assert sorted(finished) == list(range(30))
    assert completions[:30] == [ids[: i % 5 + 1] for i, ids in enumerate(expected[:30])]


def test_requests_may_be_submitted_while_others_run(
    model: GPT2, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    completions: list[list[int]] = [[] for _ in prompts]
    scheduler = DeviceScheduler(model, NO_END, 3)

    def submit(number: int) -> None:
        scheduler.submit(
            Request(prompts[number], 12, GREEDY, np.random.default_rng(0), completions[number].append, tag=number)
        )

    submit(0)
    for request in scheduler.run():
        for number in (2 * request.tag + 1, 2 * request.tag + 2):
            if number < 20:
                submit(number)
    assert completions[:20] == expected[:20]


def test_a_run_after_an_abandoned_one_uses_the_current_weights(prompts: list[list[int]]) -> None:
    model = GPT2(CONFIG, read=random_tensors(CONFIG, seed=2, std=0.3))
    scheduler, before, after = DeviceScheduler(model, NO_END, 2), [], []
    for prompt in prompts[:2]:
        scheduler.submit(Request(prompt, 200, GREEDY, np.random.default_rng(0), before.append))
    scheduler.submit(Request(prompts[2], 2, GREEDY, np.random.default_rng(0), before.append))
    next(scheduler.run())
    table = model.ends["wte"]
    table.assign(-np.asarray(table.value))
    scheduler.run_all([Request(prompts[7], 30, GREEDY, np.random.default_rng(0), after.append)])
    assert after == complete(model, [prompts[7]], 30, 1)[0]
    assert after == most_likely(model, prompts[7] + after)[len(prompts[7]) - 1 : -1].tolist()


@pytest.mark.slow
def test_weights_are_held_and_computed_in_bfloat16(model: GPT2, prompts: list[list[int]]) -> None:
    half = GPT2(CONFIG, read=random_tensors(CONFIG, seed=1, std=0.3), dtype="bfloat16")
    mixed = GPT2(CONFIG, read=random_tensors(CONFIG, seed=1, std=0.3), dtype="mixed_bfloat16")
    for each in (half, mixed):
        kinds = {str(x.dtype) for x in jax.tree.leaves(read_weights(each)) if x.ndim == 2}
        assert kinds == {"bfloat16"}
    some = prompts[7:12]
    texts = complete(half, some, 20, 3)
    assert texts == complete(mixed, some, 20, 3)
    for prompt, text in zip(some, texts, strict=True):
        logits = np.asarray(model(np.array([prompt + text])))[0, len(prompt) - 1 : -1]
        behind = logits.max(-1) - logits[np.arange(len(text)), text]
        assert (behind < 0.05 * (logits.max(-1) - logits.min(-1))).all()  # no less likely than rounding explains


class Shout:
    """A rule that the device does not know."""

    def __call__(self, logits: np.ndarray, ids: object) -> np.ndarray:
        return logits


def test_foreign_rules_run_on_the_host(model: GPT2) -> None:
    decoder = GraphDecoder(model)
    for sampler in (GREEDY, EVERY_RULE, with_rules(MinimumLength(7, 3), *EVERY_RULE.rules)):
        assert isinstance(make_scheduler(decoder, sampler, 7, 2), DeviceScheduler)
    foreign = with_rules(Shout()), with_rules(TopK(3), Temperature(2.0)), with_rules(MinimumLength(6, 3))
    for sampler in foreign:
        assert isinstance(make_scheduler(decoder, sampler, 7, 2), Scheduler)
        with pytest.raises(ValueError, match="cannot run on the device"):
            DeviceScheduler(model, 7, 2).submit(Request([1], 1, sampler, np.random.default_rng(0), print))


def with_rules(*rules: Rule) -> Sampler:
    return Sampler(rules)


LOGITS = np.log(np.array([0.05, 0.4, 0.01, 0.3, 0.04, 0.2], "float32"))
IDS = [1, 1, 4]


@pytest.mark.parametrize("draws", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "sampler",
    [
        make_sampler(),
        make_sampler(0.5),
        make_sampler(3.0),
        make_sampler(top_k=3),
        make_sampler(top_k=9),
        make_sampler(top_p=0.6),
        make_sampler(top_p=0.75),
        make_sampler(top_p=1e-9),
        make_sampler(top_k=3, top_p=0.7),
        make_sampler(2.0, top_k=2),
        make_sampler(min_p=0.5),
        make_sampler(min_p=0.6),
        make_sampler(repetition_penalty=2.0),
        make_sampler(0.8, top_k=5, top_p=0.95, min_p=0.05, repetition_penalty=1.3),
        with_rules(MinimumLength(1, 9)),
        with_rules(MinimumLength(1, 3)),
        with_rules(MinimumLength(1, 9), Nucleus(0.5)),
    ],
)
def test_draws_follow_the_hosts_rules(sampler: Sampler, draws: int) -> None:
    expected = sampler.apply_rules(LOGITS, IDS).astype("float64")
    share = np.exp(expected - expected.max())
    share /= share.sum()
    settings = leave_out(draws)
    for i in range(draws):
        write_settings(sampler, settings, i)
    used = np.zeros((draws, 6), bool)
    used[:, IDS] = True
    numbers = np.arange(draws)
    tokens = draw_tokens(
        np.tile(LOGITS, (draws, 1)),
        settings,
        rules_of(sampler),
        seeds=(numbers // 100).astype("uint32"),  # each seed draws a hundred tokens
        counts=(numbers % 100).astype("int32"),
        lengths=np.full(draws, len(IDS), "int32"),
        used=used if rules_of(sampler).penalizes else None,
        end=1,
        undrawn=NO_IDS,
    )
    counts = np.bincount(np.asarray(tokens), minlength=6)
    kept = share > 0
    assert (counts[~kept] == 0).all()
    chi_square = ((counts - share * draws)[kept] ** 2 / (share * draws)[kept]).sum()
    assert chi_square < 20.6  # exceeded once in a thousand times with 5 degrees of freedom


@pytest.mark.parametrize(
    "rule", [TopK(1), TopK(40), TopK(5000), Nucleus(0.13), Nucleus(0.81), Nucleus(0.999), MinP(0.02)]
)
def test_the_same_tokens_are_kept_as_on_the_host(rule: Rule) -> None:
    draw = np.random.default_rng(0)
    scales = [0.1, 1, 5, 30]
    logits = np.stack([draw.normal(0, scale, 3000).astype("float32") for scale in scales])
    settings = leave_out(4)
    for i in range(4):
        write_settings(with_rules(rule), settings, i)
    none = np.zeros(4, "int32")
    kept = np.isfinite(
        np.asarray(apply_rules(logits, settings, rules_of(with_rules(rule)), none, None, NO_END, NO_IDS))
    )
    for row, kept_row in zip(logits, kept, strict=True):
        host = np.isfinite(rule(row, []))
        # A nucleus of float32 sums may differ from the host's by a token at its edge.
        assert (kept_row != host).sum() <= isinstance(rule, Nucleus)


def test_rules_that_others_need_change_nothing() -> None:
    """A slot's logits are the same bits whether a rule is left out or compiled for another slot."""
    logits = np.random.default_rng(1).normal(0, 3, (2, 1000)).astype("float32")
    settings, none = leave_out(2), np.zeros(2, "int32")
    write_settings(make_sampler(0.7), settings, 0)
    plain = apply_rules(logits, settings, rules_of(make_sampler(0.7)), none, None, NO_END, NO_IDS)
    write_settings(EVERY_RULE, settings, 1)
    every = apply_rules(logits, settings, rules_of(EVERY_RULE), none, np.ones((2, 1000), bool), NO_END, NO_IDS)
    assert np.array_equal(plain[0], every[0]) and not np.array_equal(plain[1], every[1])


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The graphs that XLA compiles, or reads from its cache, while a test runs."""
    names: list[str] = []

    def note(event: str, seconds: float, **details: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_1000_tokens_compile_at_most_four_graphs(compilations: list[str]) -> None:
    config = dataclasses.replace(CONFIG, n_vocab=301)  # no other test has compiled its graphs
    model = GPT2(config, read=random_tensors(config, seed=1, std=0.3))
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 301, size).tolist() for size in draw.integers(4, 30, 10)]
    compilations.clear()
    assert sum(map(len, complete(model, prompts, 100, 4, make_sampler(top_k=40)))) == 1000
    assert 2 <= len(compilations) <= 4
    compilations.clear()
    complete(model, prompts[::-1], 90, 4, make_sampler(0.8, top_k=7))
    assert not compilations


@pytest.mark.slow
def test_a_second_process_compiles_nothing(workplace: Path) -> None:
    """XLA's cache, which holds a file per graph, does not grow."""
    cache = workplace / "compiled"
    environment = {
        "KERAS_BACKEND": "jax",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    typed = ["inference.py", "--model_path=models/tiny", "--starter=The tide", "--output_length=20", "--seed=3"]
    first = run_script(*typed, folder=workplace, env=environment)
    compiled = {path.name for path in cache.iterdir() if path.name.endswith("-cache")}
    second = run_script(*typed, folder=workplace, env=environment)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert any("run_steps" in name for name in compiled), sorted(compiled)
    assert {path.name for path in cache.iterdir() if path.name.endswith("-cache")} == compiled


def test_a_cancelled_request_ends_and_its_slot_goes_to_the_next(
    model: GPT2, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    chosen = prompts[:5]
    completions: list[list[int]] = [[] for _ in chosen]
    requests = [
        Request(prompt, 12, GREEDY, np.random.default_rng(0), completion.append, tag=i)
        for i, (prompt, completion) in enumerate(zip(chosen, completions, strict=True))
    ]
    scheduler = DeviceScheduler(model, NO_END, slots=2)
    for request in requests:
        scheduler.submit(request)
    scheduler.cancel(requests[4])  # which waits
    finished = []
    for step, request in enumerate(scheduler.steps()):
        finished += [request.tag] if request else []
        if step == 0:
            scheduler.cancel(requests[0])
    assert sorted(finished) == [1, 2, 3] and completions[4] == []
    assert completions[1:4] == expected[1:4]
    assert completions[0] == expected[0][: len(completions[0])] != expected[0]
