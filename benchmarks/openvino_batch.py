"""Completes prompts with OpenVINO's continuous batching, in a process of its own, which `serving.py` runs.

    python openvino_batch.py MODEL CONVERTED < asked.json

MODEL is a folder in Hugging Face's format, CONVERTED the folder for its int8 version, which is written if it is
missing. The last line printed is the speed after a warm-up, in new tokens per second, prefill included.
"""

import json
import sys
import time
from pathlib import Path

from openvino_peer import make_rules, open_batching, write_openvino


def main() -> None:
    model, converted = map(Path, sys.argv[1:])
    asked = json.load(sys.stdin)
    if not converted.exists():
        write_openvino(model, converted, "int8")
    pipeline = open_batching(converted, "int8", asked["at_a_time"])

    def complete(prompts: list[str], new_tokens: int) -> int:
        texts = pipeline.generate(prompts, [make_rules(new_tokens, greedy=False)] * len(prompts))
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
