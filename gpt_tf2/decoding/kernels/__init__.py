"""Compiled kernels of decoding on a CPU. Private."""
