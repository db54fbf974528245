"""Compiling the kernels in two processes at once, the first time on a machine."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from gpt_tf2.backend.numba_kernels import is_kept
from gpt_tf2.decoding.kernels.network import run_share, share_kinds
from gpt_tf2.decoding.kernels.steps import compile_steps

# Not `python -m`, which would look for modules in the current folder first.
COMPILE = """
import sys
precision, *sys.path = sys.argv[1:]
from gpt_tf2.decoding.kernels.steps import compile_network
compile_network(precision)
"""


@contextlib.contextmanager
def compile_meanwhile(precision: str) -> Iterator[None]:
    """Has the kernels compiled that run a network of float32 or int8, if they are not kept.

    Another process compiles the longer half while the `with` block runs. At its end this one compiles the rest, and
    waits for the other. What that could not compile or keep is compiled here when it is used.
    """
    other = None if is_kept(run_share, share_kinds(precision)) else start_process(precision)
    if other is None:
        yield
        return
    with other:
        try:
            yield
            compile_steps(precision)
        except BaseException:
            other.kill()
            raise


def start_process(precision: str) -> subprocess.Popen | None:
    """Starts a process that compiles the network's kernels; None if none can be started."""
    command, null = [sys.executable, "-c", COMPILE, precision, *sys.path], subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
    except OSError:
        return None
