"""Batches to weights: the loop, a step, loss, optimizers, memory, saved state. Private."""
