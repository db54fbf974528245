"""Logits to text: scheduling, sampling, drafting, the stream of text. Private."""
