"""A checkpoint's tensors as a mapping, to write them in another format."""

from collections.abc import Iterator, Mapping

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint


class ReadTensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by OpenAI's names, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> np.ndarray:
        return self._checkpoint.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.shapes)

    def __len__(self) -> int:
        return len(self._checkpoint.shapes)
