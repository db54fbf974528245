"""Measures what becomes of stories that are too long: ROUGE after a short training that shortens or skips them.

    python benchmarks/summaries.py [--seeds N …] [--steps N] [--json FILE]

The stories are made up. Their lengths spread like those of CNN/Daily Mail, but for a context of 64 tokens instead of
1,024: as there, 36 % do not fit. Each has one piece of news, more often near its beginning, and a highlight with it.
The small random networks are then scored on stories of all lengths.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet

import gpt_tf2
from gpt_tf2.commands.vocabulary import make_vocabulary, write_vocabulary
from processes import rows_of, write_rows

LENGTH = 64
WORDS, SPREAD = 40, 0.5  # of log-normal lengths, as in data.py: 36 % of the stories are too long with a highlight
WHO = ["baker", "captain", "miller", "teacher", "farmer", "painter", "singer", "doctor"]
DID = ["found", "sold", "mended", "painted", "lost", "built", "moved", "hid"]
WHAT = ["bridge", "lantern", "boat", "clock", "wagon", "bell", "statue", "fountain"]
WHERE = ["harbour", "market", "valley", "island", "forest", "village", "square", "mill"]
WEATHER = ["Rain fell", "Snow lay", "Fog hung", "Dust blew", "Wind rose", "Light lay"]
METRICS = ("rouge-1", "rouge-2", "rouge-l")
NETWORK = {"from_scratch": True, "n_layer": 2, "n_embd": 64, "n_head": 4, "init_std": 0.08}
TRAINING = {"batch_size": 32, "length": LENGTH, "lr": 0.005, "lr_schedule": "cosine", "warmup_steps": 50, "epochs": 1}
GREEDY = {"temperature": 0.0, "max_new_tokens": 12, "batch_size": 16}


def make_story(draw: random.Random) -> tuple[str, str]:
    """An article and its highlight."""
    count = round(draw.lognormvariate(0, SPREAD) * WORDS / 2.718 ** (SPREAD**2 / 2) / 5)
    sentences = [f"{draw.choice(WEATHER)} over the {draw.choice(WHERE)}." for _ in range(max(count, 4) - 1)]
    news = f"{draw.choice(WHO)} {draw.choice(DID)} the {draw.choice(WHAT)}"
    sentences.insert(3 + int(draw.random() ** 2 * (len(sentences) - 2)), f"Then the {news}.")
    return " ".join(sentences), f"The {news}"


def write_stories(path: Path, count: int) -> None:
    """Writes stories as a table."""
    draw = random.Random(path.stem)
    articles, highlights = zip(*(make_story(draw) for _ in range(count)), strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"article": articles, "highlights": highlights}), path)


def measure(folder: Path, too_long: str, seed: int, steps: int) -> dict[str, float]:
    """Trains with a seed, and scores; the figures by metric."""
    model = folder / f"{too_long} {seed}.h5"
    training = {"too_long": too_long, "seed": seed, "steps": steps, **NETWORK, **TRAINING}
    gpt_tf2.finetune(folder, task="cnndm", model=folder / "vocabulary", output=model, verbose=0, **training)
    scores = gpt_tf2.evaluate(folder, task="cnndm", model=model, verbose=0, **GREEDY)
    return {metric: scores["summaries"][f"{metric}/f1"]["mean"] for metric in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--stories", type=int, default=500, help="test stories")
    parser.add_argument("--ways", nargs="+", default=["skip", "shorten"])
    parser.add_argument("--json", help="file for all figures")
    flags = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_stories(folder / "train.parquet", 4000)
        write_stories(folder / "test.parquet", flags.stories)
        draw = random.Random(0)
        texts = ["\nTL;DR:\n".join(make_story(draw)) for _ in range(300)]
        write_vocabulary(make_vocabulary(texts, 512), folder / "vocabulary")
        for way in flags.ways:
            found = [measure(folder, way, seed, flags.steps) for seed in flags.seeds]
            for metric in found[0]:
                values = [figures[metric] for figures in found]
                each = ", ".join(f"{value:.3f}" for value in values)
                print(f"{way}, {metric}: {statistics.mean(values):.3f} ({each})", flush=True)
                rows += rows_of(way, "gpt-tf2", "", {metric: statistics.mean(values)})
    write_rows(flags.json, rows)


if __name__ == "__main__":
    main()
