"""Weights to files and back: one module a format, and the functions that choose among them by the path."""
