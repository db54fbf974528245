"""Compiling the kernels in two processes at once, the first time on a machine."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from gpt_tf2.backend.numba_kernels import is_kept
from gpt_tf2.decoding.kernels.network import run_share, share_kinds
from gpt_tf2.decoding.kernels.steps import compile_network, compile_steps


@contextlib.contextmanager
def compile_meanwhile(precision: str) -> Iterator[None]:
    """Has the kernels compiled that run a network of float32 or int8, if they are not kept.

    Another process compiles the longer half while the `with` block runs. At its end this one compiles the rest, and
    waits for the other. What that could not compile or keep is compiled here when it is used.
    """
    if not sys.executable or is_kept(run_share, share_kinds(precision)):
        yield
        return
    command = [sys.executable, "-m", __name__, precision]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as other:
        try:
            yield
            compile_steps(precision)
        except BaseException:
            other.kill()
            raise


if __name__ == "__main__":
    compile_network(sys.argv[1])
