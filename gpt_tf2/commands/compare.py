"""`compare`: two models on a text."""

import json

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.compare_settings import PAGE, CompareSettings
from gpt_tf2.commands.find_model import find_model_path
from gpt_tf2.commands.progress import Counter, print_to_stderr
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.decoding.engine import encode_reference, open_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.comparison import Comparison, compare_models
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.lookup import find_task


def compare(settings: CompareSettings) -> Comparison:
    """Compares two models on a text, both in float32. Both are in memory.

    Raises InputError if there is no such model or text, or if the models have different tokens.

    Example:
        >>> compare(CompareSettings("124M", "output/book.h5", data="held_out.txt")).agreement  # doctest: +SKIP
        0.83
    """
    a, b = (open_model(find_model_path(name, settings.offline)) for name in (settings.model, settings.other))
    check_same_tokens(a, b)
    streams = read_text_of(settings.data, a)
    decoders = [open_decoder(each, "graph", "float32", print_to_stderr, lambda done, total: None) for each in (a, b)]
    with Counter("comparing", "tokens", stderr=True) as counter:
        return compare_models((decoders[0], decoders[1]), streams, a.tokenizer.end_of_text, counter.show)


def check_same_tokens(a: OpenedModel, b: OpenedModel) -> None:
    """Raises InputError, naming the first id that differs, if two models have different tokens."""
    one, other = a.tokenizer, b.tokenizer
    if one.digest == other.digest:
        return
    ids = range(max(one.n_vocab, other.n_vocab))
    id = next(id for id in ids if one.decode_bytes(id) != other.decode_bytes(id))
    texts = [repr(each.decode([id])) if id < each.n_vocab else "no token" for each in (one, other)]
    problem = f"token {id} is {texts[1]}, but {texts[0]} in {a.path}"
    raise InputError(f"{problem}: compare models with the same vocabulary", "other", b.path)


def read_text_of(data: str | None, model: OpenedModel) -> list[np.ndarray]:
    """The token ids to compare on, int [N] for each part that is encoded apart; see `read_streams`."""
    if data is None:
        return [encode_reference(model.tokenizer)]
    running_text, skipped = find_task("text").running_text, Skipped()
    assert running_text
    streams = read_streams(running_text, data, model.tokenizer, skipped)
    for line in skipped.lines():
        print_to_stderr(line)
    return streams


def print_comparison(settings: CompareSettings) -> None:
    """Prints how two models compare, as three lines or as JSON."""
    compared = compare(settings)
    of_a, of_b = compared.perplexities
    if settings.json:
        figures = {"perplexity of A": of_a, "perplexity of B": of_b, "greedy agreement": compared.agreement}
        print(json.dumps({**figures, "KL(A||B)": compared.divergence, "tokens": compared.tokens}, indent=1))
        return
    print(f"A: perplexity {of_a:.5g}, {settings.model}")
    print(f"B: perplexity {of_b:.5g} ({of_b / of_a - 1:+.2%}), {settings.other}")
    text = f"{compared.tokens:,} tokens of {settings.data or PAGE}"
    agreement = f"the same greedy token at {compared.agreement:.2%} of {text}"
    print(f"{agreement}, mean KL(A‖B) {compared.divergence:.3g} nats per token")
