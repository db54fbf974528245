"""What a model answers in the examples of a task, turn after turn, several examples at a time."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.generation.sampling import Sampler
from gpt_tf2.generation.scheduler import Generator, Request
from gpt_tf2.generation.text_stream import Writer
from gpt_tf2.storage.journal import Journal
from gpt_tf2.tasks.task import Example, Prediction
from gpt_tf2.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Asking:
    """How examples are asked.

    batch_size: examples at a time.
    new_tokens: the most in a completion, less than the model's n_ctx.
    stop: the text that a completion ends before, as the end-of-text token; "" for none.
    gold: whether earlier turns are shown with the data's answers instead of the model's own.
    draft: whether tokens are guessed and verified several at once.
    """

    batch_size: int
    new_tokens: int
    sampler: Sampler
    seed: int
    stop: str
    gold: bool
    draft: bool


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
    room = decoder.config.n_ctx - asking.new_tokens
    passages = tokenizer.encode_batch([example.passage for _, example in examples])
    answers: list[list[str]] = [[] for _ in examples]
    shortened: set[tuple[int, int]] = set()

    def asked(i: int) -> Iterator[Request]:
        """The turns of an example; each waits until the one before it is answered."""
        number, example = examples[i]
        for turn in range(len(example.turns)):
            known = journal.get(f"{turn}:{i}")
            if known is not None:
                answers[i].append(known)
                continue
            earlier = [t.completions[0] for t in example.turns[:turn]] if asking.gold else answers[i]
            prompt, whole = prompt_ids(passages[i], example, earlier, room, tokenizer)
            if not whole:
                shortened.add((i, turn))
            writer = Writer(tokenizer, [asking.stop] if asking.stop else [])
            generator = np.random.default_rng([asking.seed, number, turn])
            yield Request(prompt, asking.new_tokens, asking.sampler, generator, writer.add, (i, turn, writer))

    # Rows of like length cost least; the turns of an example stay in the place where its passage has been run.
    order = sorted(range(len(examples)), key=lambda i: (len(passages[i]), i))
    conversations = {i: asked(i) for i in order}
    waiting = iter(order)

    total = sum(len(example.turns) for _, example in examples)

    def following(done: Request | None) -> Request | None:
        same = []
        if done:
            i, turn, writer = done.key
            answers[i].append(writer.finish())
            journal.put(f"{turn}:{i}", answers[i][-1])
            show(sum(map(len, answers)), total)
            same = [i]
        requests = (next(conversations[i], None) for i in itertools.chain(same, waiting))
        return next((request for request in requests if request), None)

    Generator(decoder, tokenizer.end_of_text, asking.draft).run(following, asking.batch_size)
    numbered = zip(examples, answers, strict=True)
    return [Prediction(number, example, tuple(given)) for (number, example), given in numbered], len(shortened)


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
