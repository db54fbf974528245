"""`demo`: trains a small GPT-2 on Python's language reference in about a minute, without a download."""

import dataclasses
import json
from pathlib import Path

from tokenizers import Tokenizer as BytePairTrainer
from tokenizers import decoders, models, pre_tokenizers, trainers

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.opened import save_model
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.generate import GenerateSettings, generate
from gpt_tf2.config import GPT2Config
from gpt_tf2.data.reference_text import read_reference_text
from gpt_tf2.storage.files import write_text
from gpt_tf2.tokenizer import END_OF_TEXT, Tokenizer, byte_characters

FOLDER = Path("models/demo")
CONFIG = GPT2Config(n_vocab=512, n_ctx=128, n_embd=128, n_head=4, n_layer=4)
STARTER = 'The "for" statement\n*******************\n'


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """The demo has no settings."""


def run_demo(settings: DemoSettings) -> Path:
    """Builds a vocabulary and a random model, trains it, and prints a sample before and after.

    Returns:
        The path of the trained model.
    """
    text = read_reference_text()
    write_text(FOLDER / "reference.txt", text)
    about = f"Python's language reference, {len(text):,} characters"
    print(f"Building a vocabulary of {CONFIG.n_vocab} tokens from {about} …")
    tokenizer = build_vocabulary(text, CONFIG.n_vocab, FOLDER)
    start_backend()
    from gpt_tf2.model import GPT2, random_tensors

    model = GPT2(CONFIG, read=random_tensors(CONFIG, seed=0, std=0.05))
    save_model(model, FOLDER / "model.ckpt", tokenizer)
    print(f"\nBefore training:\n{write_sample(FOLDER / 'model.ckpt')}\n")
    output = run_finetune(
        FinetuneSettings(
            data=str(FOLDER / "reference.txt"),
            model=FOLDER.name,
            output="demo.h5",
            epochs=8,
            steps=100,
            batch_size=16,
            length=CONFIG.n_ctx,
            lr=0.003,
            decay_epochs=(5, 7),
            decay_lr=0.25,
            val_fraction=0.1,
            sample_every=0,
        )
    )
    print(f"\nAfter training, from {output}:\n{write_sample(output)}\n")
    print("To do the same with GPT-2 and your own text:")
    print("  gpt-tf2 finetune --model 124M --data book.txt")
    return output


def write_sample(model: Path) -> str:
    """A sample of a model, as indented lines."""
    settings = GenerateSettings(model=str(model), prompt=STARTER, max_new_tokens=110, top_k=40, temperature=0.6, seed=1)
    return "\n".join(f"  | {line}" for line in generate(settings)[0].splitlines())


def build_vocabulary(text: str, size: int, folder: Path) -> Tokenizer:
    """Learns byte-pair merges from a text; writes `encoder.json` and `vocab.bpe`: 256 bytes, merges, end of text."""
    learner = BytePairTrainer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([text], trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    tokens = [*byte_characters(), *("".join(pair) for pair in merges), END_OF_TEXT]
    encoder = {token: i for i, token in enumerate(tokens)}
    write_text(folder / "encoder.json", json.dumps(encoder))
    write_text(folder / "vocab.bpe", "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges))
    return Tokenizer(folder / "encoder.json", folder / "vocab.bpe")
