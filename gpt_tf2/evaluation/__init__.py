"""A model on a task: predictions and perplexity. Private."""
