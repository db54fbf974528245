"""Logits to text: the scheduler that keeps a batch full, sampling rules, prompt lookup and streamed text."""
