"""`vocabulary`: learns a byte-level BPE vocabulary from a text, to train a network on from random weights."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gpt_tf2.checkpoints.formats import try_to_locate
from gpt_tf2.commands.find_task import find_task_of
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.commands.vocabulary_settings import VocabularySettings
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import check_writable, read_or_empty, write_text
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.task import MarkedText, Part, RunningText
from gpt_tf2.tokenizer import END_OF_TEXT, Tokenizer
from gpt_tf2.vocabularies.byte_level import byte_characters


def learn_vocabulary(settings: VocabularySettings) -> Tokenizer:
    """Learns a vocabulary from a text, writes it as `encoder.json` and `vocab.bpe`, and prints what it is for.

    Raises InputError if the text cannot be read, or if the folder holds a model, whose vocabulary it would replace.

    Example:
        >>> learn_vocabulary(VocabularySettings("books/", size=32000)).n_vocab  # doctest: +SKIP
        32000
    """
    folder, skipped = settings.folder(), Skipped()
    running_text = find_task_of(settings).running_text
    assert running_text
    check_writable(folder, 0, "choose another `output`, or fix the permissions")
    parts = skipped.take_out(running_text.parts(settings.data))
    contents = make_vocabulary(read_texts(parts, running_text), settings.size)
    for line in skipped.lines():
        print_to_stderr(line)
    if try_to_locate(str(folder)) and any(read_or_empty(str(folder / n)) != text for n, text in contents.items()):
        raise InputError("holds a model with a vocabulary of its own: choose another folder", "output", folder)
    tokenizer = write_vocabulary(contents, folder)
    if tokenizer.n_vocab < settings.size:
        print_to_stderr(f"fewer tokens than {settings.size:,}: no other two stand beside each other twice in the text")
    print(f"saved a vocabulary of {tokenizer.n_vocab:,} tokens in {folder}")
    return tokenizer


def read_texts(parts: Iterable[Part], running_text: RunningText) -> Iterator[str]:
    """The texts of a running text, without its end-of-text tokens. Raises InputError for token ids."""
    is_empty = True
    for part in parts:
        for piece in running_text.read(part):
            if not isinstance(piece, str | None):
                raise InputError("token ids, no text: give the text", "data", part.label)
            for text in piece.split(END_OF_TEXT) if isinstance(piece, MarkedText) else [piece]:
                if text:
                    is_empty = False
                    yield text
    if is_empty:
        raise InputError("there is no text in it: give a file, folder or glob with text", "data")


def make_vocabulary(texts: Iterable[str], size: int) -> dict[str, str]:
    """Learns byte-pair merges (Radford et al. 2019, section 2.2).

    Args:
        texts: split into words as GPT-2's tokenizer splits them.
        size: the tokens: 256 bytes, merges, and the end of text. A short text gives fewer.

    Returns:
        The contents of `encoder.json` and `vocab.bpe`, by these names.
    """
    from tokenizers import Tokenizer as BytePairTrainer
    from tokenizers import models, pre_tokenizers, trainers

    learner = BytePairTrainer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    # Two merges may make one token, which has the id of the first.
    tokens = dict.fromkeys([*byte_characters(), *("".join(pair) for pair in merges), END_OF_TEXT])
    return {
        "encoder.json": json.dumps({token: i for i, token in enumerate(tokens)}),
        "vocab.bpe": "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges),
    }


def write_vocabulary(contents: Mapping[str, str], folder: Path) -> Tokenizer:
    """Writes the two files of a vocabulary, and reads them."""
    for name, content in contents.items():
        write_text(folder / name, content)
    return Tokenizer(folder / "encoder.json", folder / "vocab.bpe")
