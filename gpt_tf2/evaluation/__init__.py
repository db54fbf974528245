"""A model on a task: its predictions, and the perplexity of a text."""
