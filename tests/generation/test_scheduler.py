"""The cache and the loop over it. Runs on either backend."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from gpt_tf2 import GPT2, InputError, Tokenizer, load_model
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.generation.scheduler import Generator, Request, appended, sample
from gpt_tf2.generation.text_stream import Writer
from helpers.processes import OPENAI_TINY, converted

EXPECTED = np.load(OPENAI_TINY / "expected.npz")
GREEDY = EXPECTED["greedy"].tolist()
NO_END = -1


@pytest.fixture(scope="module", params=["graph", "litert"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    model = load_model(OPENAI_TINY)
    if request.param == "graph":
        return GraphDecoder(model)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("LiteRT's graphs are made by TensorFlow")
    return converted(OPENAI_TINY, tmp_path_factory.mktemp("litert"))


@pytest.fixture
def runs(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many tokens of each row the decoder is given, step after step."""
    runs: list[list[int]] = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, rows, wanted: runs.append([*map(len, rows)]) or extend(state, rows, wanted)
    )
    return runs


@pytest.fixture(scope="module")
def full() -> Callable[[list[int]], np.ndarray]:
    """The plain forward pass: ids → logits of what follows each."""
    model = load_model(OPENAI_TINY)
    return lambda ids: np.asarray(model(np.array([ids + [0] * (64 - len(ids))])))[0, : len(ids)]


def greedy(full: Callable[[list[int]], np.ndarray], prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(full(ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("draft", [False, True])
def test_greedy_tokens_are_those_of_openais_graph(decoder: Decoder, draft: bool) -> None:
    rows = sample(decoder, GREEDY[:7], 1, 100, make_sampler(0), NO_END, draft=draft)
    assert GREEDY[:7] + rows[0] == GREEDY


def test_greedy_tokens_without_the_cache_are_those_of_openais_graph(full: Callable[[list[int]], np.ndarray]) -> None:
    assert GREEDY[:7] + greedy(full, GREEDY[:7], 57) == GREEDY


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("places", [1, 3])
def test_rows_of_many_lengths_go_on_as_alone_while_others_take_free_places(
    decoder: Decoder, full: Callable[[list[int]], np.ndarray], places: int, draft: bool
) -> None:
    draw = np.random.default_rng(3)
    prompts = [EXPECTED["tokens"][i % 3, : draw.integers(1, 60)].tolist() for i in range(14)]
    lengths = [int(draw.integers(1, 12)) for _ in prompts]
    found: list[list[int]] = [[] for _ in prompts]

    def requests() -> Iterator[Request]:
        for prompt, length, row in zip(prompts, lengths, found, strict=True):
            write = functools.partial(appended, row)
            yield Request(prompt, length, make_sampler(0), np.random.default_rng(0), write)

    waiting = requests()
    Generator(decoder, NO_END, draft).run(lambda done: next(waiting, None), places)
    for prompt, length, row in zip(prompts, lengths, found, strict=True):
        assert row == greedy(full, prompt, min(length, 64 - len(prompt)))


def test_every_logit_with_the_cache_equals_the_full_pass(
    decoder: Decoder, full: Callable[[list[int]], np.ndarray]
) -> None:
    tokens = EXPECTED["tokens"][1]
    logits = full(tokens.tolist())
    for cuts in ([3, *range(4, 65)], [1, 6, 7, 30, 64], [64]):
        state, begin = decoder.begin(), 0
        for end in cuts:
            found = decoder.extend(state, [tokens[begin:end]])
            assert np.abs(found - logits[begin:end]).max() <= 1e-5 * np.abs(logits).max()
            begin = end


def test_rows_fork_move_go_and_forget(decoder: Decoder, full: Callable[[list[int]], np.ndarray]) -> None:
    rows = [EXPECTED["tokens"][i, :n].tolist() for i, n in enumerate((9, 30, 2))]
    state = decoder.take(decoder.begin(), [(0, 0)] * 3)
    decoder.extend(state, rows)
    state = decoder.take(state, [(0, 9), (1, 30), (0, 8), (2, 2)])
    assert decoder.extend(state, [[5, 6], [7], [9], []]).shape == (4, 512)
    state = decoder.take(state, [(0, 11), (3, 2), (2, 9), (1, 0)])  # of as many rows
    state = decoder.take(state, [(0, 11), (1, 2), (2, 9)])
    ahead = decoder.extend(state, [[11], [12, 15], [13]], [1, 1, 1])
    for found, ids in zip(ahead, ([*rows[0], 5, 6, 11], [*rows[2], 12, 15], [*rows[0][:8], 9, 13]), strict=True):
        expected = full(ids)[-1]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_n_samples_run_the_prompt_once(decoder: Decoder, runs: list[list[int]]) -> None:
    rows = sample(decoder, GREEDY[:7], 5, 20, make_sampler(1.0), NO_END, seed=1)
    assert runs == [[7, 0, 0, 0, 0]] + [[1] * 5] * 19
    assert len({tuple(row) for row in rows}) == 5


def test_requests_may_end_with_what_is_known(decoder: Decoder) -> None:
    found: list[list[int]] = [[] for _ in range(5)]
    requests = [
        Request(GREEDY[:7], count, make_sampler(0), np.random.default_rng(0), functools.partial(appended, row))
        for count, row in zip((2, 1, 1, 3, 1), found, strict=True)
    ]
    for places in (1, 2):
        for row in found:
            row.clear()
        Generator(decoder, NO_END).run_all(requests, places)
        assert found == [GREEDY[7 : 7 + request.new_tokens] for request in requests]


def test_a_prompt_is_run_along_with_other_rows(
    decoder: Decoder, runs: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "chunk", 8)
    sizes, counts = (3, 20, 6), (2, 2, 4)
    requests = [
        Request(
            EXPECTED["tokens"][i, :size].tolist(), count, make_sampler(0), np.random.default_rng(0), lambda id: True
        )
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    Generator(decoder, NO_END).run_all(requests, 2)
    assert runs == [[3, 5], [1, 8], [6, 2], [1, 5], [1, 1], [1]]


def test_rows_wait_for_what_one_behind_them_has_in_common(
    decoder: Decoder, full: Callable[[list[int]], np.ndarray], runs: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "chunk", 20)
    first, other, long = (EXPECTED["tokens"][i].tolist() for i in range(3))
    prompts = [first[:3], other[:4], long[:60], [*long[:56], 1], [*long[:56], 2, 3]]
    found: list[list[int]] = [[] for _ in prompts]
    requests = [
        Request(
            prompt,
            1 if len(prompt) < 5 else 4,
            make_sampler(0),
            np.random.default_rng(0),
            functools.partial(appended, row),
        )
        for prompt, row in zip(prompts, found, strict=True)
    ]
    Generator(decoder, NO_END).run_all(requests, 3)
    assert runs[:5] == [[3, 4, 13], [0, 0, 20], [0, 0, 20], [4, 5, 7], [1, 1, 1]]
    for request, row in zip(requests, found, strict=True):
        assert row == greedy(full, request.prompt, request.new_tokens)


def test_what_prompts_have_in_common_is_run_once(decoder: Decoder, runs: list[list[int]]) -> None:
    passage = EXPECTED["tokens"][0, :40].tolist()
    prompts = iter([[*passage, 1, 2], [*passage, 3, 4, 5], [*passage, 3, 4, 5, 6]])

    def following(done: Request | None) -> Request | None:
        prompt = next(prompts, None)
        return prompt and Request(prompt, 2, make_sampler(0), np.random.default_rng(0), lambda id: True)

    Generator(decoder, NO_END).run(following, 1)
    assert runs == [[42], [1], [3], [1], [1], [1]]


def test_a_seed_gives_the_same_rows_whatever_their_number(decoder: Decoder) -> None:
    sampler = make_sampler(0.9, top_k=40)
    rows = sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert rows == sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert rows == sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4, draft=True)
    assert rows[:2] == sample(decoder, GREEDY[:7], 2, 20, sampler, NO_END, seed=4)
    assert rows != sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=5)


def test_each_row_stops_on_its_own(decoder: Decoder) -> None:
    free = sample(decoder, GREEDY[:7], 6, 40, make_sampler(1.0), NO_END, seed=2)
    end = free[0][5]
    assert any(end not in row for row in free)
    stopped = sample(decoder, GREEDY[:7], 6, 40, make_sampler(1.0), end, seed=2)
    assert stopped == [row[: row.index(end)] if end in row else row for row in free]


def test_the_context_ends_the_text(decoder: Decoder) -> None:
    prompt = EXPECTED["tokens"][2, :60].tolist()
    assert len(sample(decoder, prompt, 2, 50, make_sampler(0), NO_END)[0]) == 4
    with pytest.raises(InputError, match=r"64 tokens, n_ctx is 64"):
        sample(decoder, EXPECTED["tokens"][2].tolist(), 1, 1, make_sampler(0), NO_END)


def test_the_graph_sees_weights_that_change() -> None:
    model = GPT2(load_model(OPENAI_TINY).config, seed=1)
    own = GraphDecoder(model)
    before = own.extend(own.begin(), [[1, 2, 3]])
    model.tensors()["wte"].assign(np.asarray(model.tensors()["wte"]) * 2)
    assert not np.array_equal(before, own.extend(own.begin(), [[1, 2, 3]]))


def test_a_writer_shows_whole_characters_and_nothing_of_a_stop_text(gpt2_vocabulary: tuple[Path, Path]) -> None:
    tokenizer = Tokenizer(*gpt2_vocabulary)
    text = "naïve 🎻 café, then QED and more"
    for stops, expected in (([], text), (["QED"], "naïve 🎻 café, then "), (["Q", "the"], "naïve 🎻 café, ")):
        shown: list[str] = []
        writer = Writer(tokenizer, stops, shown.append)
        for id in tokenizer.encode(text):
            if not writer.add(id):
                break
        assert writer.finish() == "".join(shown) == expected
        assert "\ufffd" not in writer.text
        assert writer.stopped == bool(stops)
    half = Writer(tokenizer)
    half.add(tokenizer.encode("🎻")[0])
    assert half.finish() == ""
