"""OpenAI's format: a save is two files, and a kill between them leaves the old checkpoint or the new one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints import openai
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.formats import locate, open_checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import replace_file
from helpers.workplace import ROOT, list_names

CONFIG = GPT2Config(n_vocab=64, n_ctx=8, n_embd=8, n_head=2, n_layer=1)
WHOLE = ["checkpoint", "hparams.json", "model.ckpt.data-00000-of-00001", "model.ckpt.index"]
PROGRAM = f"""
import itertools, sys
from pathlib import Path
import numpy as np
from gpt_tf2.checkpoints import openai
from gpt_tf2.config import GPT2Config, tensor_shapes
config = {CONFIG!r}
for value in itertools.islice(itertools.cycle(sys.argv[1]), int(sys.argv[2])):
    openai.write(
        Path("m/model.ckpt"), config,
        {{name: np.full(shape, float(value), "float32") for name, shape in tensor_shapes(config).items()}},
    )
    print("saved", flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    return tmp_path


def write(value: float) -> None:
    """Write a checkpoint whose tensors are full of one value."""
    tensors = {name: np.full(shape, value, "float32") for name, shape in tensor_shapes(CONFIG).items()}
    openai.write(Path("m/model.ckpt"), CONFIG, tensors)


def read() -> float:
    """Return the value that the tensors of the checkpoint are full of."""
    checkpoint = open_checkpoint("m")
    values = {float(value) for name in checkpoint.shapes for value in np.unique(checkpoint.read(name))}
    assert len(values) == 1 and checkpoint.shapes.keys() == tensor_shapes(CONFIG).keys()
    return values.pop()


@pytest.mark.parametrize("old", [1.0, None])
@pytest.mark.parametrize("moved", range(5))
def test_a_save_killed_after_any_move_is_finished_when_it_is_opened(
    old: float | None, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        write(old)
    moves = iter(range(moved))

    def move(source: Path, target: Path) -> None:
        if next(moves, None) is None:
            raise KeyboardInterrupt
        replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(openai, "replace_file", move)
        with pytest.raises(KeyboardInterrupt) if moved < 4 else patch.context():
            write(2.0)
    assert read() == 2.0 and list_names(Path("m")) == WHOLE
    write(3.0)
    assert read() == 3.0 and list_names(Path("m")) == WHOLE


def test_an_unfinished_save_that_cannot_be_finished_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(openai, "replace_file", fail)
    for attempt in (lambda: write(1.0), read):
        with pytest.raises(InputError, match=r"m/model.ckpt: unfinished save \(Permission denied\): .* resume its run"):
            attempt()


def test_a_link_in_the_place_of_an_unfinished_save_is_not_followed() -> None:
    """As it may come with somebody's model."""
    write(1.0)
    Path("victim").mkdir()
    Path("victim/checkpoint").write_text("precious")
    Path("m/.model.ckpt.gpt_tf2-unfinished").symlink_to(Path("victim").absolute())
    assert read() == 1.0 and Path("victim/checkpoint").read_text() == "precious"


def test_links_to_other_file_systems_stay() -> None:
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == Path().stat().st_dev:
        pytest.skip("no other file system here")
    data = Path(f"/dev/shm/{os.getpid()}.data")
    Path("m/model.ckpt.data-00000-of-00001").symlink_to(data)
    try:
        write(1.0)
        assert read() == 1.0 and Path("m/model.ckpt.data-00000-of-00001").is_symlink() and data.stat().st_size
    finally:
        data.unlink(missing_ok=True)


def test_a_prefix_of_another_name_is_found_by_its_name_and_by_its_folder() -> None:
    """Also where its companion folder, which has the prefix's name, was made."""
    write(1.0)
    for path in Path("m").glob("model.ckpt*"):
        path.rename(path.with_name(path.name.replace("model.ckpt", "model-1000")))
    Path("m/checkpoint").write_text('model_checkpoint_path: "/elsewhere/run1/model-1000"\n')
    for _ in range(2):
        assert locate("m") == locate("m/model-1000") == Path("m/model-1000")
        (companion_folder("m/model-1000") / ".gpt_tf2").mkdir(parents=True, exist_ok=True)
        assert read() == 1.0


def start(values: str, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, values, str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_save_that_is_killed_leaves_the_old_checkpoint_or_the_new_one(kills: int) -> None:
    draw = random.Random(3)
    for _ in range(kills):
        process = start("12", 100_000)
        assert process.stdout.readline() == "saved\n"
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert read() in (1.0, 2.0)
    write(3.0)
    assert read() == 3.0 and list_names(Path("m")) == WHOLE


@pytest.mark.slow
def test_of_two_that_save_at_once_each_saves_a_whole_checkpoint() -> None:
    for _ in range(3):
        shutil.rmtree("m", ignore_errors=True)
        Path("m").mkdir()
        processes = [start(value, 4) for value in "12"]
        assert [process.communicate(timeout=120) and process.returncode for process in processes] == [0, 0]
        assert read() in (1.0, 2.0) and list_names(Path("m")) == WHOLE


def test_tensors_are_read_as_tensorflow_wrote_them_and_a_changed_byte_is_found() -> None:
    """Of each type of floating-point numbers, and of sizes that no word of the checksum divides."""
    import tensorflow as tf

    draw = np.random.default_rng(0)
    written = {
        name: draw.standard_normal(3 + 2 * i) for i, name in enumerate(("float32", "float64", "float16", "bfloat16"))
    }
    tensors = [tf.cast(values, name) for name, values in written.items()]
    tf.raw_ops.SaveV2(prefix="m/model.ckpt", tensor_names=list(written), shape_and_slices=[""] * 4, tensors=tensors)
    checkpoint = openai.open_checkpoint(Path("m/model.ckpt"))
    for name, tensor in zip(written, tensors, strict=True):
        np.testing.assert_array_equal(checkpoint.read(name), tf.cast(tensor, "float32"))
    data = Path("m/model.ckpt.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    with pytest.raises(InputError, match="tensor bfloat16 is truncated or damaged"):
        checkpoint.read("bfloat16")
    assert len(checkpoint.read("float32")) == 3
