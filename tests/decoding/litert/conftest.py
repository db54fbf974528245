"""LiteRT belongs to TensorFlow, which converts for it: nothing here depends on JAX."""

import os

collect_ignore_glob = ["test_*.py"] if os.environ.get("KERAS_BACKEND") == "jax" else []
