"""Encoding speed on one thread: ours, tiktoken's and Hugging Face's, on the same text and vocabulary.

    python benchmarks/tokenizer.py ENCODER_JSON VOCAB_BPE

The peers are part of the extra `test`.
"""

import pydoc_data.topics
import statistics
import sys
import time

import tiktoken.load
from tokenizers import ByteLevelBPETokenizer

from gpt_tf2 import Tokenizer

ROUNDS = 5


def main(encoder_json: str, vocab_bpe: str) -> None:
    text = "\n".join(pydoc_data.topics.topics.values()) * 4
    ours = Tokenizer(encoder_json, vocab_bpe)
    # tiktoken's pattern for gpt2 is what it ships; its vocabulary would come from the network, so it is given ours.
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(vocab_bpe, encoder_json)
    theirs = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    hugging_face = ByteLevelBPETokenizer(encoder_json, vocab_bpe)
    encoders = {
        "gpt-tf2": ours.encode,
        "tiktoken": theirs.encode_ordinary,
        "tokenizers": lambda text: hugging_face.encode(text).ids,
    }
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    results = []
    for _ in range(ROUNDS):
        for name, encode in encoders.items():
            began = time.perf_counter()
            results.append(encode(text))
            rates[name].append(len(text.encode()) / 1e6 / (time.perf_counter() - began))
    assert all(result == results[0] for result in results)
    best = statistics.median(rates["gpt-tf2"])
    print(f"{len(text.encode()) / 1e6:.1f} MB of English and markup, {len(results[0]):,} tokens, median of {ROUNDS}")
    for name, found in rates.items():
        print(f"{name:12} {statistics.median(found):6.1f} MB/s   gpt-tf2 is {best / statistics.median(found):.2f} ×")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
