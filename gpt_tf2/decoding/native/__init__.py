"""Decoding with our own kernels on a CPU. Private."""
