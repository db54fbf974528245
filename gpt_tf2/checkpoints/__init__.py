"""Weights to files and back: one module per format, and functions that choose the format by the path."""
