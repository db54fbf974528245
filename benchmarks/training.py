"""Measures training at the 124M shape: gpt-tf2, transformers and keras-hub in fresh processes, in turn.

    python benchmarks/training.py [--rounds 3] [--work 1x1024 4x256 stories1 stories4] [--precision float32 bfloat16]
    KERAS_BACKEND=jax python benchmarks/training.py --systems gpt-tf2 transformers --precision bfloat16    # on a GPU

`BxT` is B sequences of T random tokens with the loss on every token, in tokens/s. `storiesB` is made-up stories of
CNN/Daily Mail's lengths with the loss on the summary, in examples/s. gpt-tf2 packs them; the others are fed the usual
way, one story per sequence with a masked loss, padded to the longest of the B in a batch. All train random weights with
Adam or AdamW. benchmarks/README.md says how to install the other systems.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from processes import Row, peaks, rows_of, run_alone, write_rows

if TYPE_CHECKING:
    from gpt_tf2.data.packing import PackedExamples

VOCABULARY, LENGTH = 50257, 1024
STEPS, WARM_UP = 6, 3
STORIES, STORIES_WARM_UP = 24, 8
Step = Callable[[object], float]


def stories(count: int) -> list[tuple[np.ndarray, int]]:
    """Token ids and where each summary begins: articles of 781 words on average (See et al. 2017), within LENGTH."""
    draw = np.random.default_rng(0)
    examples: list[tuple[np.ndarray, int]] = []
    while len(examples) < count:
        article, summary = int(draw.lognormal(np.log(900) - 0.125, 0.5)), int(draw.integers(12, 28))
        if article + summary < LENGTH:
            examples.append((draw.integers(0, VOCABULARY - 1, article + summary), article))
    return examples


def packed_stories(count: int, length: int, multiple: int) -> "PackedExamples":
    """Stories as `finetune` packs them, with the loss on the summary. See `PackedExamples` for the other arguments."""
    from gpt_tf2.data.encoding import COMPLETION, PASSAGE, PROMPT
    from gpt_tf2.data.packing import PackedExamples
    from gpt_tf2.data.prepared import Tokens

    made = stories(count)
    sizes = [size for ids, at in made for size in (at, 0, len(ids) - at)]
    tokens = Tokens(
        tokens=np.concatenate([ids for ids, _ in made]),
        ends=np.cumsum(sizes),
        kinds=np.tile([PASSAGE, PROMPT, COMPLETION], len(made)),
        first_spans=np.arange(len(made) + 1) * 3,
        shortest=np.array([len(ids) + 1 for ids, _ in made]),
        key="",
        content="",
        skipped=[],
    )
    return PackedExamples(tokens, np.arange(len(made)), length, True, VOCABULARY - 1, multiple)


def rows(work: str) -> tuple[int, int]:
    batch, length = work.split("x")
    return int(batch), int(length)


def run_ours(precision: str, work: str) -> Iterator[tuple[int, Callable[[], float]]]:
    """Yields for each step its number of tokens or examples, and the function that takes it."""
    from gpt_tf2.backend.starting import start_backend

    start_backend()
    from gpt_tf2.config import SIZES
    from gpt_tf2.data.batches import whole_rows
    from gpt_tf2.model import GPT2
    from gpt_tf2.training.optimizers import AdamW
    from gpt_tf2.training.trainer import make_trainer

    trainer = make_trainer(
        GPT2(SIZES["124M"], dtype="float32" if precision == "float32" else f"mixed_{precision}"), AdamW()
    )
    if not work.startswith("stories"):
        batch, length = rows(work)
        data = whole_rows(np.random.default_rng(0).integers(0, VOCABULARY, (batch, length)))
        for _ in range(WARM_UP + STEPS):
            yield batch * length, lambda: float(trainer.step(data, 1e-4))
        return
    batch = int(work.removeprefix("stories"))
    packed = packed_stories(200, LENGTH, multiple=32)
    step = examples = 0
    while examples < STORIES + STORIES_WARM_UP:
        made = packed.batch(0, step, batch)
        count = int((made.targets == VOCABULARY - 1).sum())
        yield count, lambda made=made: float(trainer.step(made, 1e-4))
        examples, step = examples + count, step + 1


def padded(work: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields padded batches: ids, a mask that is 0 on padding, and a mask of the tokens to predict, [B, T] each."""
    batch = int(work.removeprefix("stories"))
    examples = stories(STORIES + STORIES_WARM_UP)
    for start in range(0, len(examples), batch):
        chosen = examples[start : start + batch]
        ids, present, learned = (np.zeros((batch, max(len(ids) for ids, _ in chosen)), "int64") for _ in range(3))
        for row, (tokens, at) in enumerate(chosen):
            ids[row, : len(tokens)], present[row, : len(tokens)], learned[row, at : len(tokens)] = tokens, 1, 1
        yield ids, present, learned


def run_transformers(precision: str, work: str) -> Iterator[tuple[int, Callable[[], float]]]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel(GPT2Config(attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)).train().to(device)
    if device == "cuda":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)

    def step(**inputs: torch.Tensor) -> float:
        inputs = {name: array.to(device) for name, array in inputs.items()}
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    if not work.startswith("stories"):
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, rows(work)))
        for _ in range(WARM_UP + STEPS):
            yield ids.numel(), lambda: step(input_ids=ids, labels=ids)
        return
    for ids, there, learned in padded(work):
        labels = torch.from_numpy(np.where(learned == 1, ids, -100))
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(there), "labels": labels}
        yield len(ids), lambda inputs=inputs: step(**inputs)


def run_keras_hub(precision: str, work: str) -> Iterator[tuple[int, Callable[[], float]]]:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # every other setting stays at its default
    import keras
    import keras_hub

    from gpt_tf2.backend.compiling import uses_xla

    keras.config.set_dtype_policy(precision if precision == "float32" else f"mixed_{precision}")
    sizes = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
    backbone = keras_hub.models.GPT2Backbone(VOCABULARY, **sizes, dropout=0.0, max_sequence_length=LENGTH)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss, jit_compile=uses_xla())

    def step(ids: np.ndarray, there: np.ndarray, learned: np.ndarray) -> float:
        inputs = {"token_ids": ids.astype("int32"), "padding_mask": there.astype(bool)}
        targets, weights = np.roll(ids, -1, 1), np.roll(learned, -1, 1).astype("float32")
        weights[:, -1] = 0
        return float(np.ravel(model.train_on_batch(inputs, targets, weights))[0])

    if work.startswith("stories"):
        for batch in padded(work):
            yield len(batch[0]), lambda batch=batch: step(*batch)
        return
    ids = np.random.default_rng(0).integers(0, VOCABULARY, rows(work))
    for _ in range(WARM_UP + STEPS):
        yield ids.size, lambda: step(ids, np.ones_like(ids), np.ones_like(ids))


CONTENDERS = {"gpt-tf2": run_ours, "transformers": run_transformers, "keras-hub": run_keras_hub}


def measure(who: str, precision: str, work: str) -> None:
    """Runs one system in this process and prints its figures as JSON."""
    began = time.monotonic()
    first, losses, counts, seconds = None, [], [], []
    for count, step in CONTENDERS[who](precision, work):
        start = time.monotonic()
        losses.append(step())
        seconds.append(time.monotonic() - start)
        counts.append(count)
        first = first or time.monotonic() - began
    if work.startswith("stories"):
        skipped = next(i for i in range(len(counts)) if sum(counts[:i]) >= STORIES_WARM_UP)
        speed = sum(counts[skipped:]) / sum(seconds[skipped:])
    else:
        speed = counts[0] / statistics.median(seconds[WARM_UP:])
    figures = {"speed": speed, "seconds to the first step": first, **peaks()}
    print(json.dumps({**figures, "first loss": losses[0], "last loss": losses[-1]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (default: 3)")
    parser.add_argument("--work", nargs="+", default=["1x1024", "4x256", "stories1", "stories4"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--systems", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--one", nargs=3, metavar=("WHO", "PRECISION", "WORK"), help="run one system in this process")
    flags = parser.parse_args()
    if flags.one:
        return measure(*flags.one)
    rows: list[Row] = []
    for work in flags.work:
        for precision in flags.precision:
            runs_of: dict[str, list[dict]] = {who: [] for who in flags.systems}
            for _ in range(flags.rounds):
                for who, runs in runs_of.items():
                    runs.append(run_alone(__file__, "--one", who, precision, work))
            medians = {
                who: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
                for who, runs in runs_of.items()
            }
            for who, figures in medians.items():
                unit = unit_of(work)
                speed = {unit: figures["speed"]}
                if "gpt-tf2" in medians:
                    speed[f"gpt-tf2's {unit}, times"] = medians["gpt-tf2"]["speed"] / figures["speed"]
                rest = {name: value for name, value in figures.items() if name != "speed"}
                rows += rows_of(work, who, precision, speed | rest)
            write_rows(flags.json, rows)
            show(work, precision, medians)


def unit_of(work: str) -> str:
    return "examples/s" if work.startswith("stories") else "tokens/s"


def show(work: str, precision: str, medians: dict[str, dict[str, float]]) -> None:
    """Prints one line per system, with gpt-tf2's speed relative to it."""
    for who, median in medians.items():
        ours = f" (gpt-tf2 {medians['gpt-tf2']['speed'] / median['speed']:.2f} ×)" if "gpt-tf2" in medians else ""
        on_gpu = f", {median['peak GPU GB']:.2f} GB on the GPU" if "peak GPU GB" in median else ""
        print(
            f"{work} {precision} {who}: {median['speed']:.4g} {unit_of(work)}{ours}, "
            f"first step after {median['seconds to the first step']:.1f} s, {median['peak GB']:.2f} GB{on_gpu}",
            flush=True,
        )


if __name__ == "__main__":
    main()
