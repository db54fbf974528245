"""LiteRT belongs to TensorFlow, whose converter is its oracle: nothing here depends on JAX."""

import os

collect_ignore_glob = ["test_*.py"] if os.environ.get("KERAS_BACKEND") == "jax" else []
