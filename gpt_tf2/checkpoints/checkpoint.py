"""A checkpoint of any format, seen as a lazy mapping from OpenAI's tensor names to arrays."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; nothing of its tensors has been read.

    path: the file, for messages.
    shapes: name → shape as in `tensor_shapes`; a name that is none of GPT-2's stands here as the file has it.
    read: gives one tensor as float32; raises InputError, naming file and tensor, if its bytes are damaged.
    config: the hyper-parameters that the file itself carries.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    config: GPT2Config | None = None

    def check(self, config: GPT2Config) -> None:
        """Raises InputError unless the file holds just the tensors of a GPT-2 of these hyper-parameters."""
        if self.config not in (None, config):
            raise InputError(f"{self.path}: written with {self.config}, but given {config}: leave --json_hparams out")
        expected = tensor_shapes(config)
        mend = "give the hparams.json of this checkpoint, or the checkpoint of these hparams"
        for name, shape in expected.items():
            if name not in self.shapes:
                raise InputError(f"{self.path}: tensor {name} is missing: {mend}")
            if self.shapes[name] != shape:
                found = list(self.shapes[name])
                raise InputError(f"{self.path}: tensor {name} is {found}, by the hparams {list(shape)}: {mend}")
        for name in self.shapes:
            if name not in expected:
                raise InputError(f"{self.path}: tensor {name} is no part of this GPT-2: {mend}")


def home(path: str | Path) -> Path:
    """The folder of what belongs to a checkpoint file (hyper-parameters, vocabulary).

    A folder's is itself and `model.*`'s the folder it lies in, as in OpenAI's and Hugging Face's layout; `NAME.h5` has
    `NAME/` beside it, so that several models can share a folder.
    """
    path = Path(path)
    if path.is_dir():
        return path
    return path.parent if path.stem == "model" else path.with_suffix("")


def beside(path: str | Path, *names: str, fallback: Path | None = None) -> Path | None:
    """The first of the files called `names` in a checkpoint's home, the folder of the file, or the fallback folder."""
    folders = [home(path), Path(path).parent, *([fallback] if fallback else [])]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
