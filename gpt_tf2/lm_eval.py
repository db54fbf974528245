"""A model for EleutherAI's lm-evaluation-harness: `python -m gpt_tf2.lm_eval run --model gpt-tf2 …`.

The harness knows the models that are registered, and has no way to be told of others: this module registers `gpt-tf2`
and then is `lm_eval`.
"""

import sys
from typing import Any

from tqdm import tqdm

from gpt_tf2.commands.decoders import find_model
from gpt_tf2.commands.flags import make_settings
from gpt_tf2.commands.model_settings import ModelSettings
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.decoding.engine import open_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.continuations import score_continuations
from gpt_tf2.generation.completions import CompletionRules, Prompt, complete_prompts
from gpt_tf2.generation.sampling import make_sampler

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print_to_stderr(f"lm_eval: cannot be imported ({error}): run pip install '.[lm-eval]'")
    sys.exit(2)

BATCH_SIZE = 8
MAX_NEW_TOKENS = 256  # where a task does not say; as of the harness's own models
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
Tokens = tuple[list[int], list[int]]  # of a context and its continuation


@register_model("gpt-tf2")
class HarnessModel(TemplateLM):
    """A model as the harness calls it. Scores are those of its `hf` model with the same weights.

    Args:
        pretrained: a released size, such as 124M, or a path, as in `gpt_tf2.load`.
        batch_size: sequences at a time; "auto" is 8.
        max_batch_size: of the harness, which has it for "auto".
        device: of the harness, which says cuda:0 unless its user says something. It is unused: Keras's backend
            chooses the device.
        settings: `precision`, which is float32 by default, `quantize`, `engine`, `base` and `offline`, as in
            `gpt_tf2.load`.

    Raises InputError if there is no such model, or if it cannot run here.

    Example:
        >>> import lm_eval, gpt_tf2.lm_eval  # doctest: +SKIP
        >>> lm_eval.simple_evaluate("gpt-tf2", {"pretrained": "124M"}, tasks=["hellaswag"])  # doctest: +SKIP
    """

    def __init__(
        self,
        pretrained: str = "124M",
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ):
        super().__init__()
        size = BATCH_SIZE if str(batch_size).startswith("auto") else int(batch_size)
        chosen = make_settings(ModelSettings, {"model": pretrained, "batch_size": size, **settings})
        self._model, engine = find_model(chosen)
        exact = "float32" if chosen.precision == "auto" else chosen.precision
        precision = chosen.quantize or exact
        self._decoder = open_decoder(self._model, engine, precision, print_to_stderr, lambda done, total: None)
        self._batch_size, self.max_length = size, self._model.config.n_ctx

    @property
    def eot_token_id(self) -> int:
        return self._model.tokenizer.end_of_text

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps tokenized requests by."""
        return self._model.tokenizer.digest

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._model.tokenizer.encode(string, allow_special=True)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        fix = "leave it out, or export the model to hf, and run the harness's own hf"
        raise InputError(f"not in the harness's model gpt-tf2: {fix}", "apply_chat_template")

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scores = self._score([(context, continuation) for _, context, continuation in requests], disable_tqdm)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        pairs: list[Tokens] = []
        ends = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            pairs += map(make_disjoint_window, windows)
            ends.append(len(pairs))
        scores = [logprob for logprob, _ in self._score(pairs, disable_tqdm)]
        sums = [sum(scores[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        for request, logprob in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first stop text of a request, greedy unless its task says `do_sample`.

        Raises InputError for a rule that is unknown, or if the new tokens leave no room for a prompt.
        """
        texts = [""] * len(requests)
        by_rules: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_rules.setdefault(repr(request.args[1]), []).append(index)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="generating") as bar:
            for group in by_rules.values():
                rules = self._make_rules(requests[group[0]].args[1])
                room = self.max_length - rules.max_new_tokens
                if room < 1:
                    problem = f"leaves no room for a prompt in n_ctx {self.max_length}: lower it"
                    raise InputError(problem, "max_gen_toks", rules.max_new_tokens)
                encoded = [self.tok_encode(requests[i].args[0]) or [self.eot_token_id] for i in group]
                order = sorted(range(len(group)), key=lambda i: -len(encoded[i]))
                prompts = [Prompt("", encoded[i][-room:]) for i in order]
                steps = complete_prompts(self._decoder, self._model.tokenizer, prompts, rules)
                for i, sample in zip(order, filter(None, steps), strict=True):
                    texts[group[i]] = sample.text
                    self.cache_hook.add_partial("generate_until", requests[group[i]].args, sample.text)
                    bar.update()
        return texts

    def _make_rules(self, asked: dict[str, Any]) -> CompletionRules:
        """The rules of a request. Raises InputError for one that is unknown."""
        rules = dict(normalize_gen_kwargs(asked, MAX_NEW_TOKENS))
        stops = tuple(stop for stop in rules.pop("until") if stop)
        max_new_tokens = rules.pop("max_gen_toks")
        if not rules.pop("do_sample"):
            rules["temperature"] = 0.0
        for name in rules:
            if name not in SAMPLING:
                raise InputError(f"unknown in generation_kwargs: use until, max_gen_toks, {', '.join(SAMPLING)}", name)
        return CompletionRules(make_sampler(**rules), max_new_tokens, stops=stops, seed=0, slots=self._batch_size)

    def _score(self, pairs: list[Tokens], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """The scores of continuations. What does not fit into the context is dropped at the beginning."""
        fitting = []
        for context, continuation in pairs:
            if not 0 < len(continuation) <= self.max_length:
                raise InputError(f"a continuation of {len(continuation)} tokens: 1 to n_ctx {self.max_length} fit")
            fitting.append((context[-(self.max_length + 1 - len(continuation)) :], continuation))
        scores = score_continuations(self._decoder, fitting, self._batch_size)
        by_index = dict(tqdm(scores, total=len(pairs), disable=disable_tqdm, desc="scoring"))
        return [by_index[index] for index in range(len(pairs))]


def main() -> int:
    """Runs the harness's command line. Returns the exit code, 2 for bad input."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except InputError as error:
        print_to_stderr(f"lm_eval: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
