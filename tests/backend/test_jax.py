"""What JAX is told at its start: to keep compilations, and to leave float32 exact. Each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.workplace import OPENAI_TINY, ROOT

LISTEN = """
import jax.monitoring, json, os, sys
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
from gpt_tf2.cli import main
code = main(sys.argv[1:])
counts = {kind: events.count(f"/jax/compilation_cache/cache_{kind}") for kind in ("hits", "misses")}
print(json.dumps({**counts, "code": code, "memory": os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]}))
"""
FINETUNE = "finetune --model=tiny --data=story.txt --length=32 --num_epoch=1 --steps_per_epoch=2 --sample_every=1"
PRODUCT = """
import sys
from gpt_tf2.backend.starting import start_backend
start_backend()
from gpt_tf2 import GPT2, GPT2Config
from keras import ops
GPT2(GPT2Config(n_vocab=300, n_ctx=32, n_embd=24, n_head=3, n_layer=1), dtype=sys.argv[1])
"""
ON_JAX = "import jax; print(jax.jit(ops.matmul).lower(*[jax.numpy.ones((2, 2), sys.argv[1])] * 2).as_text())"
ON_TENSORFLOW = "import tensorflow as tf; print(tf.config.experimental.tensor_float_32_execution_enabled())"
READ = f"""
from gpt_tf2.checkpoints.formats import open_checkpoint
from pathlib import Path
open_checkpoint(Path({str(OPENAI_TINY / "model.ckpt")!r})).read("wte")
import tensorflow as tf
print([device.device_type for device in tf.config.get_visible_devices()])
"""


def run(code: str, *arguments: str, folder: Path = ROOT, backend: str = "jax", **environment: str) -> str:
    """The last lines that a process prints, which has no settings of JAX but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    variables = {**kept, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, **environment}
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_second_process_compiles_nothing(workplace: Path) -> None:
    first, second = (
        json.loads(
            run(LISTEN, *FINETUNE.split(), folder=workplace, XDG_CACHE_HOME=str(workplace / "cache")).splitlines()[-1]
        )
        for _ in range(2)
    )
    assert first["code"] == second["code"] == 0
    assert first["misses"] > 0 and second["misses"] == 0 and second["hits"] >= first["misses"]
    assert first["memory"] == "false"
    assert list((workplace / "cache" / "gpt-tf2" / "jax").iterdir())


def test_a_cache_folder_of_the_user_is_respected(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    start = "from gpt_tf2.backend.starting import start_backend; start_backend()"
    code = f"{start}; import jax; print(jax.config.jax_compilation_cache_dir)"
    out = run(code, XDG_CACHE_HOME=str(other), JAX_COMPILATION_CACHE_DIR=str(own))
    assert out.strip() == str(own) and not (other / "gpt-tf2").exists()


@pytest.mark.slow
def test_products_of_float32_are_exact_and_those_of_bfloat16_as_fast_as_ever() -> None:
    assert "precision = [HIGHEST, HIGHEST]" in run(PRODUCT + ON_JAX, "float32")
    assert "HIGHEST" not in run(PRODUCT + ON_JAX, "bfloat16")
    assert run(PRODUCT + ON_TENSORFLOW, "float32", backend="tensorflow").strip() == "False"
    assert run(PRODUCT + ON_TENSORFLOW, "bfloat16", backend="tensorflow").strip() == "True"


@pytest.mark.slow
def test_a_checkpoint_of_tensorflow_is_read_without_a_gpu() -> None:
    assert run(READ).strip() == "['CPU']"
