"""What differs between TensorFlow and JAX, and between machines. Private."""
