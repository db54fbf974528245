"""A short run of fine-tuning, and what it leaves."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np

from gpt_tf2 import FinetuneSettings, load_model

SETTINGS = FinetuneSettings(
    dataset_path="story.txt",
    model="tiny",
    output_name="m.h5",
    num_epoch=2,
    steps_per_epoch=6,
    length=32,
    batch_size=2,
    dropout=0.1,
    val_fraction=0.1,
    sample_every=0,
)
FLAGS = [
    "--dataset_path=story.txt",
    "--model=tiny",
    "--output_name=m.h5",
    "--length=32",
    "--batch_size=2",
    "--dropout=0.1",
    "--sample_every=0",
]


def weights(path: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(variable) for name, variable in load_model(path).tensors().items()}


def saved(path: Path) -> dict[str, np.ndarray]:
    """Every array of an HDF5 file."""
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def identical(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


def change(**values: object) -> FinetuneSettings:
    return dataclasses.replace(SETTINGS, **values)
