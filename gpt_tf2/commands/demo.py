"""`demo`: trains a small GPT-2 on Python's language reference in about a minute, without a download."""

from pathlib import Path

from gpt_tf2.commands.demo_settings import DemoSettings
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.generate import GenerateSettings, generate
from gpt_tf2.commands.vocabulary import VocabularySettings, learn_vocabulary
from gpt_tf2.data.reference_text import read_reference_text
from gpt_tf2.storage.files import write_text

TEXT = Path("models/demo/reference.txt")
TOKENS = 512
TRAINING = FinetuneSettings(
    data=str(TEXT),
    model="demo",
    from_scratch=True,
    n_layer=4,
    n_embd=128,
    n_head=4,
    init_std=0.05,
    output="demo.h5",
    epochs=8,
    steps=100,
    batch_size=16,
    length=128,
    lr=0.003,
    decay_epochs=(5, 7),
    decay_lr=0.25,
    val_fraction=0.1,
    sample_every=0,
)
STARTER = 'The "for" statement\n*******************\n'


def run_demo(settings: DemoSettings) -> Path:
    """Learns a vocabulary, trains a random network on it, and prints a sample: `vocabulary`, `finetune`, `generate`.

    Returns:
        The path of the trained model.
    """
    text = read_reference_text()
    write_text(TEXT, text)
    print(f"Building a vocabulary of {TOKENS} tokens from Python's language reference, {len(text):,} characters …")
    learn_vocabulary(VocabularySettings(data=str(TEXT), size=TOKENS, output=TRAINING.model))
    output = run_finetune(TRAINING)
    print(f"\nA sample of {output}:\n{write_sample(output)}\n")
    print("To do the same with GPT-2 and your own text:")
    print("  gpt-tf2 finetune --model 124M --data book.txt")
    return output


def write_sample(model: Path) -> str:
    """A sample of a model, as indented lines."""
    settings = GenerateSettings(model=str(model), prompt=STARTER, max_new_tokens=110, top_k=40, temperature=0.6, seed=1)
    return "\n".join(f"  | {line}" for line in generate(settings)[0].splitlines())
