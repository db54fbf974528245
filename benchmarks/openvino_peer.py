"""OpenVINO GenAI: converting a model as `optimum-cli export openvino` does, and its two pipelines."""

from pathlib import Path
from typing import Any

import numpy as np

from peers import THREADS, Run

HINTS = {"float32": {"INFERENCE_PRECISION_HINT": "f32"}, "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16"}, "int8": {}}
CACHE_GB = 2  # for keys and values, which are int8 by default


def write_openvino(hf: Path, target: Path, precision: str) -> None:
    """Writes OpenVINO's graph of a model, and of its tokenizer.

    Args:
        hf: the folder of a model in Hugging Face's format.
        precision: `int8` for weights in int8, one scale a row; else they stay as they are.
    """
    from openvino import save_model
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast(str(hf / "vocab.json"), str(hf / "merges.txt"))
    OVModelForCausalLM.from_pretrained(hf, export=True, load_in_8bit=precision == "int8").save_pretrained(target)
    encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
    save_model(encoder, target / "openvino_tokenizer.xml")
    save_model(decoder, target / "openvino_detokenizer.xml")


def open_batching(converted: Path, precision: str, at_a_time: int) -> Any:
    """The pipeline that batches requests as they come, at most `at_a_time`, and keeps no prompts."""
    import openvino_genai

    rules = openvino_genai.SchedulerConfig()
    rules.enable_prefix_caching, rules.cache_size, rules.max_num_seqs = False, CACHE_GB, at_a_time
    return openvino_genai.ContinuousBatchingPipeline(str(converted), rules, "CPU", settings(precision))


def open_whole(converted: Path, precision: str) -> Any:
    """The pipeline that completes one batch at a time, with OpenVINO's stateful attention, and keeps no prompts."""
    import openvino_genai

    return openvino_genai.LLMPipeline(str(converted), "CPU", ATTENTION_BACKEND="SDPA", **settings(precision))


def settings(precision: str) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": THREADS, **HINTS[precision]}


def make_rules(new_tokens: int, greedy: bool) -> Any:
    """How to generate: greedily, or with a nucleus of 0.8, in either case to the last token."""
    import openvino_genai

    rules = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=not greedy)
    if not greedy:
        rules.top_p, rules.temperature = 0.8, 1.0
    return rules


def run_batching(model_path: Path, precision: str, greedy: bool) -> Run:
    from openvino import Tensor

    pipeline = open_batching(model_path, precision, at_a_time=64)

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        ids = [Tensor(np.array([prompt], "int64")) for prompt in prompts]
        texts = pipeline.generate(ids, [make_rules(new_tokens, greedy)] * len(ids))
        assert sum(len(text.m_generation_ids[0]) for text in texts) == len(ids) * new_tokens

    return run


def run_whole(model_path: Path, precision: str, greedy: bool) -> Run:
    from openvino import Tensor
    from openvino_genai import TokenizedInputs

    pipeline = open_whole(model_path, precision)

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        ids = np.array(prompts, "int64")
        inputs = TokenizedInputs(Tensor(ids), Tensor(np.ones_like(ids)))
        texts = pipeline.generate(inputs, make_rules(new_tokens, greedy)).tokens
        assert sum(map(len, texts)) == ids.shape[0] * new_tokens

    return run
