"""A short fine-tuning run on the tiny model of the fixture `workplace`, and readers for what it writes."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpt_tf2 import load_model
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from helpers.workplace import fill_workplace

SETTINGS = FinetuneSettings(
    data="story.txt",
    model="tiny",
    output_name="m.h5",
    epochs=2,
    steps=6,
    length=32,
    batch_size=2,
    dropout=0.1,
    val_fraction=0.03,
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


def change_settings(**values: object) -> FinetuneSettings:
    """The settings of the short run, some of them changed."""
    return dataclasses.replace(SETTINGS, **values)


def run_in_new_folder(factory: pytest.TempPathFactory, **values: object) -> Path:
    """Runs the short run, with some settings changed, in a new folder, which it returns."""
    folder = factory.mktemp("run")
    fill_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_finetune(change_settings(**values))
    return folder


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint."""
    return {name: np.asarray(variable) for name, variable in load_model(path).tensors().items()}


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Every array of an HDF5 file."""
    arrays = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def are_identical(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether names and values are equal, bit for bit."""
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)
