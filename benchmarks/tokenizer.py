"""Measures encoding on one thread: gpt-tf2, tiktoken and tokenizers, on the same text and vocabulary.

    python benchmarks/tokenizer.py ENCODER_JSON VOCAB_BPE [--json FILE]

The extra `test` installs all of them.
"""

import argparse
import pydoc_data.topics
import statistics
import time

import tiktoken.load
from tokenizers import ByteLevelBPETokenizer

from gpt_tf2 import Tokenizer
from processes import rows_of, write_rows

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder_json")
    parser.add_argument("vocab_bpe")
    parser.add_argument("--json", help="file for all figures")
    flags = parser.parse_args()
    encoder_json, vocab_bpe = flags.encoder_json, flags.vocab_bpe
    text = "\n".join(pydoc_data.topics.topics.values()) * 4
    ours = Tokenizer(encoder_json, vocab_bpe)
    # tiktoken ships this pattern for gpt2 but downloads its vocabulary, so it gets ours.
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
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    print(f"{len(text.encode()) / 1e6:.1f} MB of English and markup, {len(results[0]):,} tokens, median of {ROUNDS}")
    for name, median in medians.items():
        print(f"{name:12} {median:6.1f} MB/s   gpt-tf2 is {medians['gpt-tf2'] / median:.2f} ×")
    write_rows(flags.json, [row for name in medians for row in rows_of("encoding", name, "", {"MB/s": medians[name]})])


if __name__ == "__main__":
    main()
