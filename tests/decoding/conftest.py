"""The engines for CPUs depend on no backend, and LiteRT's oracle is TensorFlow: nothing of them is tested on JAX."""

import os

CPU_ONLY = ["kernels", "litert", "native", "test_conversion.py", "test_kept_conversion.py"]
collect_ignore = CPU_ONLY if os.environ.get("KERAS_BACKEND") == "jax" else []
