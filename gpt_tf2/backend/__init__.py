"""The machine: starting TensorFlow or JAX, compiling for either, hardware, memory, processes."""
