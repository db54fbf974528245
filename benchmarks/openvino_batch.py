"""Completes prompts with OpenVINO's continuous batching, in a Python of its own, which `serving.py` runs.

    PYTHON openvino_batch.py MODEL CONVERTED < asked.json

MODEL is a folder in Hugging Face's format, CONVERTED the folder for its int8 version, which is written if it is
missing. The last line printed is the speed after a warm-up, in new tokens per second, prefill included.
"""

import json
import sys
import time
from pathlib import Path

import openvino_genai


def convert(model: Path, converted: Path) -> None:
    """Writes OpenVINO's graph of a model, with its weights in int8, and of its tokenizer."""
    from openvino import save_model
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast(str(model / "vocab.json"), str(model / "merges.txt"))
    OVModelForCausalLM.from_pretrained(model, export=True, load_in_8bit=True).save_pretrained(converted)
    encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
    save_model(encoder, converted / "openvino_tokenizer.xml")
    save_model(decoder, converted / "openvino_detokenizer.xml")


def main() -> None:
    model, converted = map(Path, sys.argv[1:])
    asked = json.load(sys.stdin)
    if not converted.exists():
        convert(model, converted)
    rules = openvino_genai.SchedulerConfig()
    rules.max_num_seqs, rules.cache_size = asked["at_a_time"], 2  # GB
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(converted), rules, "CPU")

    def complete(prompts: list[str], new_tokens: int) -> int:
        how = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=True)
        how.top_p, how.temperature = asked["top_p"], 1.0
        texts = pipeline.generate(prompts, [how] * len(prompts))
        return texts[0].perf_metrics.get_num_generated_tokens()  # of all together

    prompts, new_tokens = asked["prompts"], asked["max_new_tokens"]
    complete(asked["warm_up"], 8)
    began = time.monotonic()
    tokens = complete(prompts, new_tokens)
    seconds = time.monotonic() - began
    if tokens != len(prompts) * new_tokens:
        raise SystemExit(f"not all texts are whole: {tokens} tokens")
    print(tokens / seconds)


if __name__ == "__main__":
    main()
