"""Perplexity of the completions that the data holds, each after its prompt and the completions before it."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt_tf2.backend.workers import Workers
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.logprobs import score_after
from gpt_tf2.evaluation.shared_journal import SharedJournal
from gpt_tf2.tasks.task import Example
from gpt_tf2.tokenizer import Tokenizer


def measure_completions(
    decoders: Sequence[Decoder],
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    workers: Workers,
    journal: SharedJournal,
    show: Callable[[int, int | None], None],
) -> dict[str, float]:
    """Perplexity per token of the tokens that training learns of these examples, and how many they are.

    Args:
        decoders: the model on each of the workers' devices.
        journal: keeps what is measured of each example.
        show: called with the number of examples so far, and in all, without those that other processes measure.
    """
    missing = [number for number in range(len(examples)) if journal.get(f"nats:{number}") is None]
    share, done = workers.share(missing), len(examples) - len(missing)

    def measure(decoder: Decoder, numbers: Iterator[int]) -> Iterator[tuple[int, list[float]]]:
        for number in numbers:
            tokens, is_learned = join_turns(examples[number], tokenizer)
            first = int(np.argmax(is_learned))
            logprobs = np.concatenate(list(score_after(decoder, tokens, first)))
            chosen = logprobs[is_learned[first:]]
            yield number, [-float(chosen.sum()), len(chosen)]

    functions = [functools.partial(measure, decoder) for decoder in decoders]
    for count, (number, result) in enumerate(workers.run(functions, share), start=1):
        journal.put(f"nats:{number}", result)
        show(done + count, done + len(share))
    journal.gather()
    results = [journal.results[f"nats:{number}"] for number in range(len(examples))]
    nats, learned = (math.fsum(values) for values in zip(*results, strict=True))
    return {"perplexity per token": math.exp(nats / learned), "tokens": int(learned)}


def join_turns(example: Example, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of an example with the first completion of each turn, int [N], and whether each is learned, bool [N].

    They are those of `PackedExamples`: a completion's tokens are learned, and the one that ends it.
    """
    tokens = encode_text(example.passage, tokenizer)
    completed = [False] * len(tokens)
    for turn in example.turns:
        prompt = encode_text(turn.prompt, tokenizer) or ([] if tokens else [tokenizer.end_of_text])
        completion = encode_text(turn.completions[0], tokenizer)
        tokens += prompt + completion
        completed += [False] * len(prompt) + [True] * len(completion)
    follows = np.array([False, *completed])  # a completion
    return np.array([*tokens, tokenizer.end_of_text]), np.append(completed, False) | follows
