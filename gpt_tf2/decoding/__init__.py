"""Weights to the logits of the next token. Private."""
