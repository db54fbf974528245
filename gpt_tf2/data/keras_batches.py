"""Our batches in the form that Keras's `fit` and `evaluate` take."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from gpt_tf2.backend.compiling import uses_xla
from gpt_tf2.data.batches import Batch, Batches
from gpt_tf2.data.dataset import Silent, Source, open_training_data
from gpt_tf2.errors import InputError, check_number
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer

MOST_HELD_OUT = 64  # sequences to validate with
RANGES: dict[str, tuple[type, Callable[[float], bool], str]] = {
    "length": (int, lambda value: 2 <= value < 2**31, "2 or more, less than 2^31"),
    "batch_size": (int, lambda value: 1 <= value < 2**31, "1 or more, less than 2^31"),
    "steps": (int, lambda value: 1 <= value < 2**31, "1 or more, less than 2^31"),
    "val_fraction": (float, lambda value: 0 <= value < 1, "0 or more, less than 1"),
    "seed": (int, lambda value: 0 <= value < 2**63, "0 or more, less than 2^63"),
}
KerasBatch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]  # inputs, next tokens, weights of their losses


class KerasBatches(keras.utils.PyDataset):
    """Batches for `fit` and `evaluate`, each of the inputs of `GPT2`, the next tokens, and the weights of their losses.

    Every epoch has new batches, unless they are `Repeated`. The weights have a mean of 1, in each batch or over all
    repeated ones, so that Keras's loss is the mean over the learned tokens.

    Args:
        batches: the data.
        length: the tokens that every sequence is padded to, so that only one shape is compiled.
        batch_size: sequences in a batch.
        steps: batches in an epoch.
        seed: decides what the batches hold.
    """

    def __init__(self, batches: Batches, length: int, batch_size: int, steps: int, seed: int = 0):
        super().__init__()
        self.batches, self.length, self.batch_size, self.steps, self.seed = batches, length, batch_size, steps, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> KerasBatch:
        inputs, targets, weights = to_keras(self.batch(self.epoch * self.steps + index), self.length)
        mean = self.batches.mean_weight(self.length) if isinstance(self.batches, Repeated) else weights.mean()
        return inputs, targets, weights / mean

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted over all epochs, for a training loop of your own."""
        return self.batches.batch(self.seed, step, self.batch_size)


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Batches that are the same in every epoch; see `Batches`."""

    kept: list[Batch]

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        return self.kept[step % len(self.kept)]

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        yield from self.kept

    def mean_weight(self, length: int) -> float:
        """The mean weight of all tokens, with each sequence padded to a length.

        Keras weighs the losses of batches by their sequences. Weights divided by this make that the mean over all
        learned tokens.
        """
        sequences = sum(len(batch.tokens) for batch in self.kept)
        return sum(float(batch.weights.sum()) for batch in self.kept) / (sequences * length)


def open_batches(
    data: str | Path,
    tokenizer: Tokenizer,
    *,
    task: str = "text",
    length: int = 1024,
    batch_size: int = 1,
    steps: int = 100,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> tuple[KerasBatches, KerasBatches | None]:
    """Batches to train on, and batches held out for validation, prepared as for `finetune`.

    Args:
        data: a file, a folder or a glob.
        tokenizer: the vocabulary of the model.
        task: text, jsonl, cnndm, coqa or the FILE.py of your own. It also says where the loss falls.
        length: tokens in a sequence, at most n_ctx.
        steps: batches in an epoch.
        val_fraction: the fraction of the data that is held out.
        seed: decides what the batches hold.

    Returns:
        The batches to train on, and those held out, None without a `val_fraction`.

    Raises InputError if a setting is out of its range, or if the data is bad or holds too little for this length.

    Example:
        >>> train, held_out = open_batches("book.txt", tokenizer, length=256, val_fraction=0.1)  # doctest: +SKIP
        >>> model.fit(train, validation_data=held_out, epochs=4)  # doctest: +SKIP
    """
    settings = {"length": length, "batch_size": batch_size, "steps": steps, "val_fraction": val_fraction, "seed": seed}
    for name, value in settings.items():
        check_number(name, value, *RANGES[name])
    if task == "preferences":
        raise InputError("has completions that are not to be learned: gpt_tf2.finetune compares them", "task", task)
    source = Source(find_task(task), str(data), tokenizer)
    opened = open_training_data(source, length, val_fraction, source.task.loss_on == "completion", Silent())
    training, held_out = opened.make_batches(uses_xla())
    train = KerasBatches(training, length, batch_size, steps, seed)
    if held_out is None:
        return train, None
    kept = list(held_out.windows(batch_size, MOST_HELD_OUT))
    return train, KerasBatches(Repeated(kept), length, batch_size, len(kept))


def to_keras(batch: Batch, length: int) -> KerasBatch:
    """A batch as `fit` takes it, with each sequence padded to a length, and weights 1 or 0."""
    names = ("tokens", "positions", "segments")
    padding = ((0, 0), (0, length - batch.tokens.shape[1]))
    targets, weights = np.zeros(batch.tokens.size, "int32"), np.zeros(batch.tokens.size, "float32")
    learned = batch.weights > 0
    targets[batch.picks[learned]], weights[batch.picks[learned]] = batch.targets[learned], batch.weights[learned]
    targets, weights = (np.pad(x.reshape(batch.tokens.shape), padding) for x in (targets, weights))
    return {name: np.pad(getattr(batch, name), padding) for name in names}, targets, weights
