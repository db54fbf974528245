"""Training: batches, loss, the loop, what it saves and what it shows."""
