"""Measures training at the 124M shape: gpt-tf2, transformers and keras-hub in fresh processes, in turn.

    python benchmarks/training.py --work 1x1024 [--rounds 3] [--precision float32 bfloat16]
    KERAS_BACKEND=jax python benchmarks/training.py --systems gpt-tf2 transformers --precision bfloat16    # on a GPU

`BxT` is B sequences of T random tokens with the loss on every token, in tokens/s. `storiesB` is made-up stories of
CNN/Daily Mail's lengths with the loss on the summary, in examples/s. gpt-tf2 packs them; the others are fed the usual
way, one story per sequence with a masked loss, padded to the longest of the B in a batch. All train random weights with
Adam or AdamW. `transformers` runs eagerly and `torch.compile` compiled, both with torch's fused AdamW.

On a CPU, gpt-tf2's process then measures the matrix rate: TensorFlow's products of the network's shapes, forward and
backward, in the same precision. For `BxT` each system is shown with its share of that rate, at 6 FLOP per token and
weight of a matrix (12 layers of 12 E² and the head's V E, E = 768, V = 50,257), and 12 T E per token and layer for
attention, which counts what the mask hides (PaLM, Chowdhery et al. 2022, appendix B): 0.854 GFLOP a token at T = 1,024.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from processes import Row, peaks, processor, rows_of, run_alone, write_rows

if TYPE_CHECKING:
    from gpt_tf2.data.packing import PackedExamples

VOCABULARY, LENGTH, LAYERS, WIDTH = 50257, 1024, 12, 768
OURS, RATE = "gpt-tf2", "matrix GFLOP/s"
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


def run_transformers(precision: str, work: str, compiled: bool = False) -> Iterator[tuple[int, Callable[[], float]]]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel(GPT2Config(attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)).train().to(device)
    if compiled or device == "cuda":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0, fused=True)

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


CONTENDERS = {
    OURS: run_ours,
    "transformers": run_transformers,
    "torch.compile": partial(run_transformers, compiled=True),
    "keras-hub": run_keras_hub,
}


def matrix_rate(precision: str, positions: int) -> float:
    """GFLOP/s of TensorFlow's products in a step: of each matrix forward, and back to its input and its weights.

    Each product is taken at its fastest of five, and weighted as often as the network has it.

    Args:
        positions: in a batch.
    """
    import tensorflow as tf

    multiply = tf.function(tf.matmul)
    kinds = {(WIDTH, 3 * WIDTH): LAYERS, (WIDTH, WIDTH): LAYERS, (WIDTH, 4 * WIDTH): LAYERS, (4 * WIDTH, WIDTH): LAYERS}
    seconds = operations = 0.0
    for (rows, columns), count in (kinds | {(WIDTH, VOCABULARY): 1}).items():
        draw = partial(tf.random.normal, dtype=getattr(tf, precision))
        given, weights, gradient = draw((positions, rows)), draw((rows, columns)), draw((positions, columns))
        products = [
            partial(multiply, given, weights),
            partial(multiply, gradient, weights, transpose_b=True),
            partial(multiply, given, gradient, transpose_a=True),
        ]
        seconds += count * sum(min(seconds_of(product) for _ in range(5)) for product in products)
        operations += count * 2 * len(products) * positions * rows * columns
    return operations / seconds / 1e9


def seconds_of(product: Callable[[], object]) -> float:
    began = time.monotonic()
    product()  # it is done when it returns
    return time.monotonic() - began


def operations_of(work: str) -> float:
    """The FLOP of a token in training; the module says how they are counted."""
    matrices = LAYERS * 12 * WIDTH**2 + VOCABULARY * WIDTH
    return 6 * matrices + LAYERS * 12 * rows(work)[1] * WIDTH


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
    if who == OURS and not work.startswith("stories") and os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        figures[RATE] = matrix_rate(precision, counts[0])
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
    print(processor(), flush=True)
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
                own = compare(work, who, medians)
                rest = {name: value for name, value in figures.items() if name != "speed"}
                rows += rows_of(work, who, precision, {unit_of(work): figures["speed"], **own, **rest})
            write_rows(flags.json, rows)
            show(work, precision, medians)


def compare(work: str, who: str, medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """gpt-tf2's speed by a system's, and a system's share of the matrix rate, if they are known."""
    speed, ours = medians[who]["speed"], medians.get(OURS, {})
    figures = {f"{OURS}'s {unit_of(work)}, times": ours["speed"] / speed} if ours and who != OURS else {}
    if RATE in ours:
        figures["share of the matrix rate"] = speed * operations_of(work) / 1e9 / ours[RATE]
    return figures


def unit_of(work: str) -> str:
    return "examples/s" if work.startswith("stories") else "tokens/s"


def show(work: str, precision: str, medians: dict[str, dict[str, float]]) -> None:
    """Prints one line per system, with gpt-tf2's speed relative to it and to the best of the others."""
    for who, median in medians.items():
        first, peak = f"first step after {median['seconds to the first step']:.1f} s", f"{median['peak GB']:.2f} GB"
        parts = [f"{median['speed']:.4g} {unit_of(work)}", first, peak]
        parts += [f"{value:.3g} {name}" for name, value in compare(work, who, medians).items()]
        parts += [f"{median[name]:.4g} {name}" for name in (RATE, "peak GPU GB") if name in median]
        print(f"{work} {precision} {who}: " + ", ".join(parts), flush=True)
    peers = [who for who in medians if who != OURS]
    if peers and OURS in medians:
        best = max(peers, key=lambda who: medians[who]["speed"])
        ratio = medians[OURS]["speed"] / medians[best]["speed"]
        print(f"{work} {precision} {OURS}: {ratio:.2f} × the best, {best}", flush=True)


if __name__ == "__main__":
    main()
