"""Marks that depend on the backend."""

import os
from collections.abc import Callable
from typing import Any

import pytest

# For tests of what is the same on both backends, or what JAX does only if it is asked to.
slow_on_jax: Callable[[Any], Any] = (
    pytest.mark.slow if os.environ.get("KERAS_BACKEND") == "jax" else lambda function: function
)

# For long tests in which no backend takes part: running them on one is enough.
skip_on_jax = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") == "jax", reason="no backend takes part")
