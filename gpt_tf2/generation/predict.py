"""What a model answers in the examples of a task, turn after turn, in batches of like length."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gpt_tf2.generation.decoder import Decoder, State
from gpt_tf2.generation.generate import go_on
from gpt_tf2.generation.sampling import Sampler
from gpt_tf2.journal import Journal
from gpt_tf2.tasks.task import Example, Prediction
from gpt_tf2.tokenizer import Tokenizer

TAIL = 16  # tokens that a stop text may be spread over


@dataclasses.dataclass(frozen=True)
class Asking:
    """How examples are asked.

    new_tokens: the most in a completion, less than the model's n_ctx.
    stop: the text that a completion ends before, as the end-of-text token; "" for none.
    gold: whether earlier turns are shown with the data's answers instead of the model's own.
    """

    batch_size: int
    new_tokens: int
    sampler: Sampler
    seed: int
    stop: str
    gold: bool


def predict(
    decoder: Decoder,
    tokenizer: Tokenizer,
    examples: Sequence[tuple[int, Example]],
    asking: Asking,
    journal: Journal,
    show: Callable[[int, int | None], None],
) -> tuple[list[Prediction], int]:
    """A prediction for each example, in their order, and how many prompts had to be shortened.

    What is drawn depends on the seed, the example's number and the turn alone. What the journal has is not asked again.

    Args:
        examples: with the numbers of their items.
        show: is called with how many completions are done, and how many there will be.
    """
    room = decoder.model.config.n_ctx - asking.new_tokens
    passages = tokenizer.encode_batch([example.passage for _, example in examples])
    answers: list[list[str]] = [[] for _ in examples]
    total = sum(len(example.turns) for _, example in examples)
    done = shortened = 0
    for turn in range(max(len(example.turns) for _, example in examples)):
        prompts: dict[int, list[int]] = {}
        for i, (_, example) in enumerate(examples):
            if turn < len(example.turns):
                earlier = [t.completions[0] for t in example.turns[:turn]] if asking.gold else answers[i]
                prompts[i], whole = prompt_ids(passages[i], example, earlier, room, tokenizer)
                shortened += not whole
        order = sorted(prompts, key=lambda i: (len(prompts[i]), i))
        for start in range(0, len(order), asking.batch_size):
            rows = order[start : start + asking.batch_size]
            completions = journal.get(f"{turn}:{start}")
            if completions is None:
                state = decoder.prefill([prompts[i] for i in rows], asking.new_tokens - 1)
                generators = [np.random.default_rng([asking.seed, examples[i][0], turn]) for i in rows]
                completions = completed(decoder, state, generators, asking, tokenizer)
                journal.put(f"{turn}:{start}", completions)
            for i, completion in zip(rows, completions, strict=True):
                answers[i].append(completion)
            done += len(rows)
            show(done, total)
    numbered = zip(examples, answers, strict=True)
    return [Prediction(number, example, tuple(given)) for (number, example), given in numbered], shortened


def completed(
    decoder: Decoder, state: State, generators: list[np.random.Generator], asking: Asking, tokenizer: Tokenizer
) -> list[str]:
    """The completion of each row of a state, as text."""

    def stopped(ids: list[int]) -> bool:
        return bool(asking.stop) and asking.stop in tokenizer.decode(ids[-TAIL:])

    rows = go_on(decoder, state, generators, asking.new_tokens, asking.sampler, tokenizer.end_of_text, stopped)
    texts = [tokenizer.decode(row) for row in rows]
    return [text.split(asking.stop)[0] if asking.stop else text for text in texts]


def prompt_ids(
    passage: list[int], example: Example, earlier: Sequence[str], room: int, tokenizer: Tokenizer
) -> tuple[list[int], bool]:
    """The ids of an example up to the turn after those answered, at most `room`, and whether it is there in whole.

    What does not fit goes: the oldest turns as long as the passage has less than half of the room, then the passage's
    end, then the question's beginning.
    """
    answered = zip(example.turns, earlier, strict=False)
    history = [tokenizer.encode(turn.prompt) + tokenizer.encode(answer) for turn, answer in answered]
    asked = tokenizer.encode(example.turns[len(earlier)].prompt)
    turns = len(history)
    while history and room - len(asked) - sum(map(len, history)) < min(len(passage), room // 2):
        history.pop(0)
    left = max(0, room - len(asked) - sum(map(len, history)))
    ids = passage[:left] + [i for part in history for i in part] + asked
    whole = len(history) == turns and len(passage) <= left and len(ids) <= room
    return ids[-room:] or [tokenizer.end_of_text], whole
