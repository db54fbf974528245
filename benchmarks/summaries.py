"""Measures what becomes of stories that are too long: ROUGE after a short training that shortens or skips them.

    python benchmarks/summaries.py [--seeds N] [--steps N] [--json FILE]

The stories are made up, a quarter as long as CNN/Daily Mail's, for a context of 256 tokens: more than a third do not
fit, as of the real ones into 1,024. Each has three facts, more of them near its beginning, and a highlight for each.
The small random networks are then scored on stories of all lengths.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from processes import rows_of, write_rows

import gpt_tf2
from gpt_tf2.commands.vocabulary import make_vocabulary, write_vocabulary

LENGTH, MAX_NEW_TOKENS = 256, 40
WORDS, SPREAD = 781 / 4, 0.5  # of log-normal lengths; see data.py
FACTS = 3
WHO = ["baker", "captain", "miller", "teacher", "farmer", "painter", "singer", "doctor"]
DID = ["found", "sold", "mended", "painted", "lost", "built", "moved", "hid"]
WHAT = ["bridge", "lantern", "boat", "clock", "wagon", "bell", "statue", "fountain"]
WHERE = ["harbour", "market", "valley", "island", "forest", "village", "square", "mill"]
WEATHER = ["Rain fell", "Snow lay", "Fog hung", "Dust blew", "Wind rose", "Light lay"]
NETWORK = {"from_scratch": True, "n_layer": 2, "n_embd": 64, "n_head": 4, "init_std": 0.08}
TRAINING = {"batch_size": 8, "length": LENGTH, "lr": 0.005, "lr_schedule": "cosine", "warmup_steps": 50, "epochs": 1}
WAYS = {  # name → how it is trained, and how it is scored
    "skip": ({"too_long": "skip"}, {"temperature": 0.0}),
    "shorten": ({}, {"temperature": 0.0}),
    "skip, all highlights": ({"too_long": "skip", "highlights": "all"}, {"temperature": 0.0, "highlights": "all"}),
    "shorten, all highlights": ({"highlights": "all"}, {"temperature": 0.0, "highlights": "all"}),
    "shorten, 3 samples": ({}, {"top_k": 2, "num_trials": FACTS}),
}


def make_story(draw: random.Random) -> tuple[str, str]:
    """An article, and its highlights, one per line."""
    count = round(draw.lognormvariate(0, SPREAD) * WORDS / 2.718 ** (SPREAD**2 / 2) / 5)
    sentences = [f"{draw.choice(WEATHER)} over the {draw.choice(WHERE)}." for _ in range(max(count, 4) - FACTS)]
    facts = [f"{who} {draw.choice(DID)} the {draw.choice(WHAT)}" for who in draw.sample(WHO, FACTS)]
    places = sorted((3 + int(draw.random() ** 2 * max(0, len(sentences) - 2)) for _ in facts), reverse=True)
    for place, fact in zip(places, reversed(facts), strict=True):
        sentences.insert(place, f"Then the {fact}.")
    return " ".join(sentences), "\n".join(f"The {fact}" for fact in facts)


def write_stories(path: Path, count: int) -> None:
    """Writes stories as a table."""
    draw = random.Random(path.stem)
    articles, highlights = zip(*(make_story(draw) for _ in range(count)), strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"article": articles, "highlights": highlights}), path)


def measure(folder: Path, way: str, seed: int, steps: int, stories: int) -> dict[str, float]:
    """Trains and scores one way."""
    trained, scored = WAYS[way]
    model = folder / f"{way} {seed}.h5"
    training = {"seed": seed, "steps": steps, **NETWORK, **TRAINING, **trained}
    gpt_tf2.finetune(folder, task="cnndm", model=folder / "vocabulary", output=model, verbose=0, **training)
    sampling = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": 16, **scored}
    scores = gpt_tf2.evaluate(folder, task="cnndm", model=model, limit=stories, verbose=0, **sampling)
    return {metric: figures["mean"] for metric, figures in scores["summaries"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--stories", type=int, default=300, help="test stories")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
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
            found = [measure(folder, way, seed, flags.steps, flags.stories) for seed in range(flags.seeds)]
            for metric in ("rouge-1/f1", "rouge-2/f1", "rouge-l/f1"):
                values = [figures[metric] for figures in found]
                print(
                    f"{way}, {metric}: {statistics.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})",
                    flush=True,
                )
                rows += rows_of(way, "gpt-tf2", "", {metric: statistics.mean(values)})
    write_rows(flags.json, rows)


if __name__ == "__main__":
    main()
