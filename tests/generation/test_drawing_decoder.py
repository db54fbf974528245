"""A decoder that draws tokens itself, many steps in one call: they are those that are drawn step by step."""

import concurrent.futures
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.decoder import Choice, Decoder, DrawingDecoder, warm_up
from gpt_tf2.decoding.native.decoder import NativeDecoder
from gpt_tf2.decoding.native.packing import convert, runs_natively
from gpt_tf2.errors import InputError
from gpt_tf2.generation import model_draft
from gpt_tf2.generation import scheduler as scheduler_module
from gpt_tf2.generation.model_draft import Draftable, ModelDrafter
from gpt_tf2.generation.sampling import Sampler, make_sampler
from gpt_tf2.generation.scheduler import Request, Scheduler

CONFIG = GPT2Config(n_vocab=300, n_ctx=200, n_embd=48, n_head=3, n_layer=2)  # two tiles of the cache
PROMPTS = [np.random.default_rng(i).integers(0, 300, size).tolist() for i, size in enumerate((5, 40, 1, 120, 12, 60))]
SAMPLERS = {
    "greedy": make_sampler(0),
    "plain": make_sampler(),
    "nucleus": make_sampler(1.3, top_p=0.9),
    "all": make_sampler(0.8, top_k=50, top_p=0.9, min_p=0.01),
    "penalized": make_sampler(top_p=0.9, repetition_penalty=1.5),  # not drawn by the decoder
}
NO_END = -1

pytestmark = pytest.mark.skipif(not runs_natively(CONFIG), reason="this processor lacks the instructions")


@pytest.fixture(scope="module", params=["int8", "float32"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model, in a folder named after its precision."""
    folder = tmp_path_factory.mktemp("drawn") / request.param
    folder.mkdir()
    draw, shapes = np.random.default_rng(0), tensor_shapes(CONFIG)
    weights = {name: draw.normal(0, 0.3, shape).astype("float32") for name, shape in shapes.items()}
    checkpoint = Checkpoint(Path("drawn"), shapes, weights.__getitem__)
    convert(checkpoint, CONFIG, folder, request.param, lambda done, total: None)
    return folder


@pytest.fixture
def decoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> NativeDecoder:
    monkeypatch.setattr(scheduler_module, "SECONDS_AHEAD", 1000)  # many steps, however slow the machine is
    return NativeDecoder(folder, CONFIG, folder.name)


@pytest.fixture
def calls(decoder: NativeDecoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps the decoder is asked to draw in each call."""
    calls: list[int] = []
    draw = decoder.draw
    monkeypatch.setattr(decoder, "draw", lambda *arguments: calls.append(arguments[3].shape[1]) or draw(*arguments))
    return calls


class StepByStep:
    """A decoder that does not draw."""

    def __init__(self, decoder: NativeDecoder):
        for name in [*Decoder.__annotations__, "begin", "extend", "take"]:
            setattr(self, name, getattr(decoder, name))


def complete(
    decoder: Decoder, sampler: Sampler, end: int, draft: bool = False
) -> tuple[list[list[int]], list[np.random.Generator]]:
    """The completions of all prompts, five at a time, and what is left of their generators."""
    completions: list[list[int]] = [[] for _ in PROMPTS]
    generators = [np.random.default_rng(i) for i in range(len(PROMPTS))]
    Scheduler(decoder, end, slots=5, draft=draft).run_all(
        Request(ids, 20 + 3 * i, sampler, generators[i], completions[i].append) for i, ids in enumerate(PROMPTS)
    )
    return completions, generators


def test_only_decoders_that_draw_are_asked_to(decoder: NativeDecoder) -> None:
    assert isinstance(decoder, DrawingDecoder) and not isinstance(StepByStep(decoder), DrawingDecoder)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_tokens_are_those_drawn_step_by_step(decoder: NativeDecoder, calls: list[int], name: str) -> None:
    sampler = SAMPLERS[name]
    expected, generators = complete(StepByStep(decoder), sampler, NO_END)
    completions, others = complete(decoder, sampler, NO_END)
    assert completions == expected and (max(calls) > 8 if sampler.as_choice() else not calls)
    assert [generator.random() for generator in others] == [generator.random() for generator in generators]


def test_sequences_end_where_they_end_step_by_step(decoder: NativeDecoder, calls: list[int]) -> None:
    plain, _ = complete(decoder, SAMPLERS["plain"], NO_END)
    end = plain[1][9]
    expected, generators = complete(StepByStep(decoder), SAMPLERS["plain"], end)
    completions, others = complete(decoder, SAMPLERS["plain"], end)
    assert completions == expected and len(completions[1]) <= 9 and max(calls) > 4
    assert [generator.random() for generator in others] == [generator.random() for generator in generators]


def test_a_caller_ends_a_completion_amid_the_steps_of_a_call(decoder: NativeDecoder) -> None:
    (expected, *_), _ = complete(decoder, SAMPLERS["plain"], NO_END)
    completion: list[int] = []
    generator = np.random.default_rng(0)
    request = Request(
        PROMPTS[0], 20, SAMPLERS["plain"], generator, lambda id: completion.append(id) or len(completion) < 11
    )
    scheduler = Scheduler(decoder, NO_END, slots=1)
    scheduler.run_all([request])
    assert completion == expected[:11]
    following = np.random.default_rng(0)
    following.random(11)
    assert generator.random() == following.random()
    # The conversation goes on from what is cached, which ends where the completion does.
    again: list[int] = []
    prompt = [*PROMPTS[0], *completion]
    scheduler.run_all([Request(prompt, 5, SAMPLERS["greedy"], generator, again.append)])
    alone: list[int] = []
    Scheduler(StepByStep(decoder), NO_END, 1).run_all([Request(prompt, 5, SAMPLERS["greedy"], generator, alone.append)])
    assert again == alone


def test_sequences_without_a_token_stay_as_they_are(decoder: NativeDecoder) -> None:
    state = decoder.take(decoder.begin(), [(0, 0)] * 3)
    decoder.extend(state, [[1, 2, 3], [4, 5], [6, 7, 8, 9]], [0, 0, 0])
    numbers = np.random.default_rng(3).random((2, 6))
    tokens = decoder.draw(state, [[10], [], [11]], [Choice(0.7), Choice(top_k=5)], numbers, NO_END)
    assert tokens.shape == (2, 6) and state.lengths.tolist() == [9, 2, 10]
    alone = decoder.begin()
    decoder.extend(alone, [[6, 7, 8, 9]], [0])
    np.testing.assert_array_equal(decoder.draw(alone, [[11]], [Choice(top_k=5)], numbers[1:], NO_END), tokens[1:])


def test_ids_without_a_token_are_not_drawn(folder: Path) -> None:
    drawn = [
        id for ids in complete(NativeDecoder(folder, CONFIG, folder.name), SAMPLERS["plain"], NO_END)[0] for id in ids
    ]
    undrawn = np.unique(drawn)[::2].astype("int32")
    decoder = NativeDecoder(folder, CONFIG, folder.name, undrawn)
    completions, _ = complete(decoder, SAMPLERS["plain"], NO_END)
    assert not {id for ids in completions for id in ids}.intersection(undrawn.tolist())
    assert completions == complete(StepByStep(decoder), SAMPLERS["plain"], NO_END)[0]


def test_no_token_is_drawn_beyond_the_context(decoder: NativeDecoder) -> None:
    state = decoder.begin()
    decoder.extend(state, [[0] * 172], [0])
    assert decoder.draw(state, [[1]], [Choice()], np.zeros((1, 28)), NO_END).shape == (1, 28)
    with pytest.raises(ValueError, match="more to draw than the context has room for"):
        decoder.draw(state, [[1]], [Choice()], np.zeros((1, 1)), NO_END)
    with pytest.raises(ValueError, match="more tokens than one to begin with"):
        decoder.draw(decoder.begin(), [[1, 2]], [Choice()], np.zeros((1, 1)), NO_END)


def test_a_file_that_lacks_a_drawn_tokens_embedding_is_reported(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    decoder = NativeDecoder(tmp_path, CONFIG, folder.name)
    with (tmp_path / "wte.npy").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 299 * CONFIG.n_embd * 4)
    state = decoder.begin()
    with pytest.raises(InputError, match=r"wte\.npy: ends before row [1-9]\d*: remove its folder"):
        decoder.draw(state, [[0]], [Choice()], np.full((1, 2), 0.9), NO_END)


def test_calls_grow_with_the_text_where_steps_take_no_time(decoder: NativeDecoder, calls: list[int]) -> None:
    request = Request(PROMPTS[0], 41, SAMPLERS["plain"], np.random.default_rng(0), lambda id: True)
    Scheduler(decoder, NO_END, slots=1).run_all([request])
    assert calls == [1, 2, 4, 8, 16, 9]  # the first token comes with the prompt


def test_a_step_runs_alone_where_it_takes_long(
    decoder: NativeDecoder, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "SECONDS_AHEAD", 0.0)
    request = Request(PROMPTS[0], 41, SAMPLERS["plain"], np.random.default_rng(0), lambda id: True)
    Scheduler(decoder, NO_END, slots=1).run_all([request])
    assert calls == [1] * 40


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_drafter_that_draws_is_right_where_its_logits_are_the_same(
    decoder: NativeDecoder, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if folder.name == "int8":
        pytest.skip("there the logits of tokens that run together are slightly others")
    sampler, plain = SAMPLERS[name], StepByStep(decoder)
    ids = complete(plain, sampler, NO_END)[0][1]
    end = max(ids, key=ids.index) if len(set(ids)) > 9 else NO_END  # greedily the model repeats itself
    expected, generators = complete(plain, sampler, end)
    monkeypatch.setattr(model_draft, "COST", 0.1)  # so that three sequences are drafted on
    drafted: list[int] = []
    propose = ModelDrafter.propose

    def count_drafted(drafter: ModelDrafter, sequences: Sequence[Draftable | None]) -> list[list[int]]:
        drafts = propose(drafter, sequences)
        drafted.extend(map(len, drafts))
        for draft, sequence in zip(drafts, sequences, strict=True):
            assert not sequence or draft == continuations[tuple(sequence.ids)][: len(draft)]
        return drafts

    continuations = {
        (*prompt, *ids[:count]): ids[count:]
        for prompt, ids in zip(PROMPTS, expected, strict=True)
        for count in range(len(ids) + 1)
    }
    monkeypatch.setattr(ModelDrafter, "propose", count_drafted)
    decoder.drafter = NativeDecoder(folder, CONFIG, folder.name)
    drawn: list[int] = []
    draw = decoder.drafter.draw
    monkeypatch.setattr(decoder.drafter, "draw", lambda *a: drawn.append(a[3].shape[1]) or draw(*a))
    completions, others = complete(decoder, sampler, end)
    assert completions == expected and max(drafted) == model_draft.MOST
    assert max(drawn) >= model_draft.MOST - 1 if sampler.as_choice() else not drawn
    assert complete(decoder, sampler, end, draft=True)[0] == expected  # with prompt lookup
    assert [generator.random() for generator in others] == [generator.random() for generator in generators]


def test_other_threads_of_python_go_on_during_a_call(decoder: NativeDecoder) -> None:
    times: list[float] = []
    is_over = threading.Event()

    def note_times() -> None:
        while not is_over.is_set():
            times.append(time.monotonic())
            time.sleep(1e-4)

    warm_up(decoder)
    thread = threading.Thread(target=note_times, daemon=True)
    thread.start()
    seen = 0
    for _ in range(20):
        state, began = decoder.begin(), time.monotonic()
        decoder.draw(state, [[0]], [Choice()], np.random.default_rng(0).random((1, 190)), NO_END)
        took = time.monotonic() - began
        seen += sum(began + 0.2 * took < moment < began + 0.8 * took for moment in times)
    is_over.set()
    thread.join(timeout=60)
    assert seen


def test_two_threads_draw_as_if_alone(folder: Path) -> None:
    def draw(seed: int) -> np.ndarray:
        decoder = NativeDecoder(folder, CONFIG, folder.name)
        numbers = np.random.default_rng(seed).random((1, 190))
        return decoder.draw(decoder.begin(), [[seed]], [Choice(top_p=0.9)], numbers, NO_END)

    alone = [draw(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(4)))
    np.testing.assert_array_equal(together, alone)
