"""Made-up data sets, learnable in seconds, with a vocabulary and a random model for them."""

import hashlib
import json
import random
from pathlib import Path

from gpt_tf2.checkpoints.opened import save_model
from gpt_tf2.commands import vocabulary
from gpt_tf2.config import GPT2Config
from gpt_tf2.tokenizer import Tokenizer

PEOPLE = ["baker", "captain", "miller", "teacher", "farmer", "painter", "singer", "doctor"]
DEEDS = ["found", "sold", "mended", "painted", "lost", "built", "moved", "hid"]
THINGS = ["bridge", "lantern", "boat", "clock", "wagon", "bell", "statue", "fountain"]
PLACES = ["harbour", "market", "valley", "island", "forest", "village", "square", "mill"]
WEATHER = ["Rain fell", "Snow lay", "Fog hung", "The sun stood", "Dust blew", "A wind rose"]
TALK = ["Nobody was surprised", "Many came to look", "Few had heard of it", "It was talked about for weeks"]


def make_story(draw: random.Random) -> tuple[str, str]:
    """An article with its news after the first three sentences, and a highlight with the news."""
    person, deed, thing = draw.choice(PEOPLE), draw.choice(DEEDS), draw.choice(THINGS)
    filler = [f"{draw.choice(WEATHER)} over the {draw.choice(PLACES)}." for _ in range(draw.randint(4, 7))]
    filler.insert(draw.randint(3, len(filler)), f"Then the {person} {deed} the {thing}. {draw.choice(TALK)}.")
    return "\n\n".join(filler), f"The {person} {deed} the {thing}"


def write_stories(folder: Path, **counts: int) -> None:
    """Writes `url_lists/` and `cnn/stories/`. counts: the stories of each split."""
    (folder / "url_lists").mkdir(parents=True, exist_ok=True)
    (folder / "cnn" / "stories").mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        draw = random.Random(split)
        urls = [f"http://www.cnn.com/made-up/{split}/{number}" for number in range(count)]
        (folder / "url_lists" / f"all_{split}.txt").write_text("\n".join(urls) + "\n")
        for url in urls:
            article, highlight = make_story(draw)
            name = hashlib.sha1(url.encode()).hexdigest()
            (folder / "cnn" / "stories" / f"{name}.story").write_text(f"{article}\n\n@highlight\n\n{highlight}")


def make_conversation(draw: random.Random, name: str) -> dict:
    """A story in CoQA's format, with four questions in random order."""
    colour, animal = draw.choice(["red", "blue", "green", "black", "white"]), draw.choice(["cat", "dog", "goat", "owl"])
    place, food = draw.choice(PLACES), draw.choice(["bread", "apples", "fish", "cheese", "grass"])
    asked = [
        ("What colour was it?", colour),
        ("Which animal was it?", f"a {animal}"),
        ("Where did it live?", f"in the {place}"),
        ("What did it eat?", food),
    ]
    draw.shuffle(asked)
    turns = list(enumerate(asked, start=1))
    return {
        "id": name,
        "source": draw.choice(["cnn", "wikipedia", "mctest"]),
        "story": f"Once there was a {colour} {animal}. It lived in the {place}. Every day it ate {food}.",
        "questions": [{"turn_id": turn, "input_text": question} for turn, (question, _) in turns],
        "answers": [{"turn_id": turn, "input_text": answer} for turn, (_, answer) in turns],
    }


def write_conversations(folder: Path, **counts: int) -> None:
    """Writes CoQA's JSON files. counts: the stories of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        draw = random.Random(split)
        data = [make_conversation(draw, f"{split}-{number}") for number in range(count)]
        (folder / f"coqa-{split}-v1.0.json").write_text(json.dumps({"data": data}))


def write_vocabulary(folder: Path) -> Tokenizer:
    """Learns a vocabulary of 512 tokens from both data sets and writes it."""
    draw = random.Random(0)
    text = "".join("\n".join(make_story(draw)) + "\nTL;DR:\n" for _ in range(200))
    for number in range(200):
        made = make_conversation(draw, str(number))
        text += made["story"]
        for question, answer in zip(made["questions"], made["answers"], strict=True):
            text += f"\n Q: {question['input_text']}\n A: {answer['input_text']}"
    return vocabulary.write_vocabulary(vocabulary.make_vocabulary([text], 512), folder)


def write_model(folder: Path, n_ctx: int) -> None:
    """Writes a small random model with that vocabulary."""
    from gpt_tf2.model import GPT2, random_tensors

    config = GPT2Config(n_vocab=512, n_ctx=n_ctx, n_embd=64, n_head=4, n_layer=2)
    model = GPT2(config, read=random_tensors(config, seed=0, std=0.08))
    save_model(model, folder / "model.ckpt", write_vocabulary(folder))
