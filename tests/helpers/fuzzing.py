"""A fuzzer of the readers: whole files, damaged at random, must be read or refused in one line."""

import dataclasses
import json
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpt_tf2 import GPT2Config, InputError, Tokenizer
from gpt_tf2.checkpoints import adapters, hdf5, huggingface, openai, peft, tf1_index
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import adapter_shapes, tensor_shapes
from gpt_tf2.data.held_out import encode, read_held_out
from gpt_tf2.scoring.coqa import read_gold, read_predictions, score_conversations
from gpt_tf2.storage.journal import Journal, read_results
from gpt_tf2.storage.kept import Sources, open_or_build
from gpt_tf2.storage.sealed import MARK, SEAL
from gpt_tf2.tasks.examples import Skipped, read_examples
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.training.state import STEP_STATE_KEYS, History, load_state, read_run, save_state
from gpt_tf2.vocabularies.byte_level import byte_characters
from gpt_tf2.vocabularies.openai import define
from helpers.data_sets import FIXTURES
from helpers.foreign import write_config, write_model_of_2019, write_pickled, write_shards, write_tf_model
from helpers.workplace import OPENAI_TINY

CONFIG = GPT2Config(n_vocab=8, n_ctx=4, n_embd=4, n_head=2, n_layer=1)
NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WORST_SECONDS, WORST_BYTES = 60, 10**9


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader to fuzz.

    write: writes a whole input into an empty folder. read: reads all of it. files: those that are damaged, by suffix.
    sign: sets the checksums inside a damaged file right again, as whoever crafts one does.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    sign: Callable[[bytes], bytes] = lambda content: content


@dataclasses.dataclass
class Count:
    """What became of the inputs, and the most that one of them cost."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    bytes: int = 0


def fuzz(target: Target, folder: Path, rounds: int, seed: int = 0) -> Count:
    """Damages a target's files and reads them, `rounds` times.

    Raises AssertionError, and keeps the damaged files in `folder`, if one is neither read nor refused in one line, or
    takes too long or too much memory. Any other error comes through.
    """
    draw = random.Random(seed)
    folder.mkdir()
    target.write(folder)
    names = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(target.files)]
    whole = {path: path.read_bytes() for path in names}
    target.read(folder)
    count = Count()
    for _ in range(rounds):
        for path, content in whole.items():
            path.write_bytes(content)
        damaged = draw.choice(names)
        damaged.write_bytes(target.sign(damage(whole[damaged], draw, damaged.suffix == ".json")))
        began, memory = time.monotonic(), peak()
        try:
            target.read(folder)
            count.read += 1
        except InputError as error:
            line = str(error)
            assert len(line) <= 300 and line.isprintable() and line.rpartition(": ")[2], line
            count.refused += 1
        count.seconds = max(count.seconds, time.monotonic() - began)
        count.bytes = max(count.bytes, peak() - memory)
        assert count.seconds < WORST_SECONDS and count.bytes < WORST_BYTES, count
    for path, content in whole.items():
        path.write_bytes(content)
    return count


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def damage(content: bytes, draw: random.Random, is_json: bool) -> bytes:
    """A damaged copy: of a JSON file often another value in it, else one or a few changes of bytes."""
    if is_json and draw.random() < 0.6:
        return damage_json(json.loads(content), draw)
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(changed) + 1)
        length = draw.choice((1, 2, 4, 8, 16, 100, len(changed) // 2))
        other = draw.randrange(len(changed) + 1)
        kind = draw.choice((0, 0, 1, 2, 3, 4, 4, 5, 6, 6, 6, 7))
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place:place] = changed[other : other + length]
        elif kind == 4:
            changed[place : place + length] = changed[other : other + length]
        elif kind == 5:
            changed[place : place + length] = draw.randbytes(length)
        elif kind == 6:
            size, number = draw.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q"))), draw.choice(NUMBERS)
            aligned = place - place % size[0] if draw.random() < 0.7 else place
            changed[aligned : aligned + size[0]] = struct.pack(size[1], number % 2 ** (8 * size[0]))
        else:
            changed[place:place] = draw.choice(
                (b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\n", b'"', b"{" * 99, b"9" * 5000)
            )
    return bytes(changed)


def damage_json(value: Any, draw: random.Random) -> bytes:
    """JSON with another value somewhere, or without one."""
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else []
        places += [(item, key) for key in keys]
        waiting += [item[key] for key in keys]
    strange = [None, True, -1, 0, 1.5, 10**9, 10**30, "", "x\udc80", "\0", "9" * 2000, [], {}, [[1]], {"id": 1}, 1e308]
    item, key = draw.choice(places)
    if draw.random() < 0.2:
        del item[key]
    else:
        item[key] = draw.choice([*strange, "RAW"])
    raw = draw.choice(["9" * 5000, "[" * 100000, "-", "NaN", "1e999", '"\\ud800"', '{"a":' * 2000])
    return json.dumps(value).replace('"RAW"', raw).encode()


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def compute_crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sign_blocks(index: bytes) -> bytes:
    """A TF1 index with right checksums, masked as LevelDB does, after its block of tensors and its block of blocks."""
    signed = bytearray(index)
    try:
        numbers, position = [], max(0, len(index) - tf1_index.FOOTER)
        for _ in range(4):
            number, position = tf1_index.read_varint(index, position)
            numbers.append(number)
    except tf1_index.Damage:
        return index
    for start, size in ((0, numbers[0] - 5), (numbers[2], numbers[3])):
        end = start + size + 1  # with the kind of compression
        if size >= 0 and end + 4 <= len(index):
            crc = compute_crc32c(index[start:end])
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
            signed[end : end + 4] = struct.pack("<I", masked)
    return bytes(signed)


def read_all(path: Path) -> None:
    """Every tensor of a checkpoint, as loading a model reads them."""
    checkpoint = open_checkpoint(path)
    checkpoint.check(checkpoint.config or CONFIG)
    for name in checkpoint.shapes:
        assert checkpoint.read(name).shape == checkpoint.shapes[name]


def write_adapters(folder: Path) -> None:
    hdf5.write(folder / "base.h5", CONFIG, random_tensors(tensor_shapes(CONFIG)))
    base = describe_base(hdf5.open_checkpoint(folder / "base.h5"))
    adapters.write(folder / "a.h5", CONFIG, base, random_tensors(adapter_shapes(CONFIG, 2)))


def write_peft(folder: Path) -> None:
    hdf5.write(folder / "base.h5", CONFIG, random_tensors(tensor_shapes(CONFIG)))
    base = describe_base(hdf5.open_checkpoint(folder / "base.h5"))
    peft.write(folder / peft.FILE, CONFIG, base, random_tensors(adapter_shapes(CONFIG, 2)), alpha=3)


def describe_base(checkpoint: Checkpoint, vocabulary: str = "") -> adapters.Base:
    """A checkpoint as the base of adapters."""
    digests = {name: checkpoint.read_with_digest(name)[1] for name in checkpoint.shapes}
    return adapters.Base(checkpoint.path, digests, vocabulary)


class Slot:
    """A variable of a trainer."""

    def __init__(self, value: np.ndarray):
        self.value, self.shape = value, value.shape

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        assert value.shape == self.shape
        self.assigned = value


def make_trainer() -> Any:
    """What `save_state` and `load_state` need of a trainer."""
    trained = {name: Slot(value) for name, value in random_tensors(tensor_shapes(CONFIG)).items()}
    state = {name: (variable, variable) for name, variable in trained.items()}
    return SimpleNamespace(
        trained=trained,
        optimizer_state=state,
        step_state=SimpleNamespace(**dict.fromkeys(STEP_STATE_KEYS, 1)),
        devices=SimpleNamespace(place=lambda values: values),
    )


RUN = {"--length": 4, "data": "x"}


def read_state(folder: Path) -> Any:
    """A trainer with a saved run loaded."""
    trainer = make_trainer()
    read_run(folder / "state.h5")
    load_state(folder / "state.h5", trainer, RUN)
    return trainer


def compare_state(folder: Path) -> None:
    """Loads a saved run, and compares its weights with those that were saved."""
    assert all(np.array_equal(slot.assigned, slot.value) for slot in read_state(folder).trained.values())


def write_parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"article": ["The tide."] * 9, "highlights": ["Boats .\nTide ."] * 9, "id": list(map(str, range(9)))}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "train.parquet")


def write_coqa(folder: Path) -> None:
    content = (FIXTURES / "coqa" / "coqa-dev-v1.0.json").read_bytes()
    (folder / "coqa-dev-v1.0.json").write_bytes(content)
    data = json.loads(content)["data"]
    answers = [{"id": s["id"], "turn_id": a["turn_id"], "answer": a["input_text"]} for s in data for a in s["answers"]]
    (folder / "predictions.json").write_text(json.dumps(answers))


def read_coqa(folder: Path) -> None:
    gold, sources = read_gold(str(folder / "coqa-dev-v1.0.json"))
    score_conversations(gold, sources, read_predictions(str(folder / "predictions.json")))


def write_vocabulary(folder: Path) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        (folder / name).write_bytes((OPENAI_TINY / name).read_bytes())


def read_vocabulary(folder: Path) -> None:
    tokenizer = Tokenizer(folder / "encoder.json", folder / "vocab.bpe")
    tokenizer.decode(tokenizer.encode("The lanterns of Orrin"))


def write_vocabulary_of_others(folder: Path, *names: str) -> None:
    """RoBERTa's order, as transformers keeps it. names: the files of the tokens."""
    ids = {name: i for i, name in enumerate(["<s>", "</s>", *byte_characters(), "Ġt", "he", "<mask>"])}
    merges = [("Ġ", "t"), ("h", "e")]
    added = {"<user>": len(ids)}
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    whole = define(ids, merges, [{"id": 0, "content": "<s>"} | flags, {"id": len(ids), "content": "<user>"} | flags])
    contents = {
        "vocab.json": ids,
        "tokenizer.json": whole | {"normalizer": {"type": "NFC"}},
        "added_tokens.json": added,
        "special_tokens_map.json": {"bos_token": "<s>", "mask_token": {"content": "<mask>"} | flags},
        "tokenizer_config.json": {"eos_token": "</s>", "added_tokens_decoder": {"1": {"content": "</s>"} | flags}},
    }
    for name, content in contents.items():
        if name not in ("vocab.json", "tokenizer.json") or name in names:
            (folder / name).write_text(json.dumps(content))
    if "merges.txt" in names:
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def read_vocabulary_of_others(folder: Path, *names: str) -> None:
    tokenizer = Tokenizer(*(folder / name for name in names)).with_added(["<new>"])
    tokenizer.decode(tokenizer.encode("The <mask> lanterns <user> of Orrin", allow_added=False))
    tokenizer.count_bytes(np.array(tokenizer.encode("the <user></s>", allow_special=True)))
    len(tokenizer.digest), tokenizer.list_files(for_transformers=True)


def list_examples(loader: str, data: Path, split: str) -> None:
    list(read_examples(find_task(loader), str(data), split, Skipped()))


def read_parts(data: Path) -> None:
    task = find_task("text")
    assert task.running_text
    for part in task.running_text.parts(str(data)):
        task.running_text.read(part)


def sign_state(content: bytes) -> bytes:
    """A saved run with the right checksum at its end."""
    data = content[: -SEAL.size]
    return data + SEAL.pack(MARK, zlib.crc32(data))


KEPT_BYTES = bytes(range(256)) * 40
RESULTS = {f"0:{number}": "word " * number for number in range(30)}
HELD_OUT = np.arange(40, dtype="<i4")


def open_kept(folder: Path) -> None:
    """Opens a kept folder, or builds it again, and compares what is in it with what was built."""

    def build(temporary: Path) -> dict[str, Any]:
        (temporary / "tokens.npy").write_bytes(KEPT_BYTES)
        return {"count": 40}

    sources = Sources(lambda: [str(folder / "source.txt")])
    options: Any = {"on_wait": lambda: None, "fix": "free space", "changed": InputError("changed: start again")}
    with open_or_build(folder / "kept", "format 1", sources, build, **options) as kept:
        assert (kept.folder / "tokens.npy").read_bytes() == KEPT_BYTES and kept.facts == {"count": 40}


def write_kept(folder: Path) -> None:
    (folder / "source.txt").write_text("The tide.")
    open_kept(folder)


def write_journal(folder: Path) -> None:
    journal = Journal(folder / "a.partial", "job")
    for key, result in RESULTS.items():
        journal.put(key, result)


def read_journal(folder: Path) -> None:
    """Reads a journal, and compares its results with the first ones that were written."""
    results = read_results(folder / "a.partial", "job")[0]
    assert results == dict(list(RESULTS.items())[: len(results)])


def write_validation(folder: Path) -> None:
    (folder / "validation.npy").write_bytes(encode(HELD_OUT))


def read_validation(folder: Path) -> None:
    tokens, line = read_held_out(folder, n_vocab=100)
    assert line if tokens is None else np.array_equal(tokens, HELD_OUT)


# What the program keeps for itself: damage is noticed, and the work is done again.
KEPT = {
    "kept folder": Target(write_kept, open_kept, (".npy", "about.json")),
    "journal": Target(write_journal, read_journal, (".partial",)),
    "held-out tokens": Target(write_validation, read_validation, (".npy",)),
}
TARGETS = {
    "HDF5": Target(
        lambda folder: hdf5.write(folder / "m.h5", CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder / "m.h5"),
        (".h5",),
    ),
    "adapters": Target(write_adapters, lambda folder: read_all(folder / "a.h5"), ("a.h5",)),
    "peft": Target(
        write_peft, lambda folder: read_all(folder / peft.FILE), ("adapter_model.safetensors", "adapter_config.json")
    ),
    "state": Target(
        lambda folder: save_state(folder / "state.h5", make_trainer(), History([1.0], [(1, 2.0)]), RUN),
        compare_state,
        (".h5",),
    ),
    "state with a right checksum": Target(
        lambda folder: save_state(folder / "state.h5", make_trainer(), History([1.0], [(1, 2.0)]), RUN),
        read_state,
        (".h5",),
        sign_state,
    ),
    "TF1": Target(
        lambda folder: openai.write(folder / "model.ckpt", CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder),
        (".index", "-00001"),
    ),
    "TF1 with right checksums": Target(
        lambda folder: openai.write(folder / "model.ckpt", CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder),
        (".index",),
        sign_blocks,
    ),
    "safetensors": Target(
        lambda folder: huggingface.write(folder / "model.safetensors", CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder),
        (".safetensors", "config.json"),
    ),
    "several safetensors files": Target(
        lambda folder: write_shards(folder, CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder),
        (".safetensors", "index.json", "config.json"),
    ),
    "pickled model": Target(
        lambda folder: write_pickled(folder, CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder),
        (".bin",),
    ),
    "old pickled model": Target(
        lambda folder: write_pickled(folder, CONFIG, random_tensors(tensor_shapes(CONFIG)), old=True),
        lambda folder: read_all(folder),
        (".bin",),
    ),
    "model of TF classes": Target(
        lambda folder: (
            write_tf_model(folder / "tf_model.h5", random_tensors(tensor_shapes(CONFIG)))
            or write_config(folder, CONFIG)
        ),
        lambda folder: read_all(folder),
        (".h5",),
    ),
    "model of 2019": Target(
        lambda folder: write_model_of_2019(folder / "m.h5", CONFIG, random_tensors(tensor_shapes(CONFIG))),
        lambda folder: read_all(folder / "m.h5"),
        (".h5",),
    ),
    "hyper-parameters": Target(
        lambda folder: (folder / "hparams.json").write_text(CONFIG.to_json()) and None,
        lambda folder: GPT2Config.from_json(folder / "hparams.json"),
        (".json",),
    ),
    "vocabulary": Target(write_vocabulary, read_vocabulary, (".json", ".bpe")),
    "tokenizer.json": Target(
        lambda folder: write_vocabulary_of_others(folder, "tokenizer.json"),
        lambda folder: read_vocabulary_of_others(folder, "tokenizer.json"),
        (".json",),
    ),
    "vocabulary of others": Target(
        lambda folder: write_vocabulary_of_others(folder, "vocab.json", "merges.txt"),
        lambda folder: read_vocabulary_of_others(folder, "vocab.json", "merges.txt"),
        (".json", ".txt"),
    ),
    ".npz": Target(
        lambda folder: np.savez_compressed(folder / "t.npz", a=np.arange(99), b=np.arange(9, dtype="uint16")),
        lambda folder: read_parts(folder / "t.npz"),
        (".npz",),
    ),
    "Parquet": Target(
        write_parquet, lambda folder: list_examples("cnndm", folder / "train.parquet", "train"), (".parquet",)
    ),
    "CoQA": Target(write_coqa, lambda folder: list_examples("coqa", folder, "dev"), ("v1.0.json",)),
    "CoQA's scores": Target(write_coqa, read_coqa, (".json",)),
}
