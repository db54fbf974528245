"""Weights to logits: what a decoder is, and the two that run here, the Keras graph and LiteRT."""
