"""Weights to files and back: one module per format. Private."""

from gpt_tf2.checkpoints.formats import open_checkpoint

__all__ = ["open_checkpoint"]
