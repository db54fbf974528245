"""What starting Keras imports."""

import os
import subprocess
import sys

from helpers.workplace import ROOT

CODE = """
import gc, sys
from gpt_tf2.backend.starting import LateFinder, start_backend
start_backend()
print(gc.isenabled(), gc.get_freeze_count() > 100_000, LateFinder in map(type, sys.meta_path))
print("matplotlib.figure" in sys.modules, "IPython.core" in sys.modules)
import gpt_tf2.commands.finetune, gpt_tf2.decoding.keras_graph, gpt_tf2.training.callbacks, gpt_tf2.training.trainer
print("numba" in sys.modules)  # of sampling, which comes after the first step
import matplotlib.pyplot
print(callable(matplotlib.pyplot.figure), "matplotlib.figure" in sys.modules)
"""


def test_what_the_first_step_does_not_need_is_imported_when_it_is_used() -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", CODE], env=variables, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["True True False", "False False", "False", "True True"]
