"""How the loss is split into chunks, so that the full logits are never materialized.

Apart from `loss.py`, because the memory planner needs it before Keras is imported.
"""

CHUNK_LOGITS = 1 << 25  # about 670 tokens of GPT-2's vocabulary


def count_chunk_logits(remat: bool) -> int:
    """Return how many logits are alive at once: with activation checkpointing half as many."""
    return CHUNK_LOGITS // 2 if remat else CHUNK_LOGITS


def split_into_chunks(count: int, limit: int) -> list[slice]:
    """Split `count` tokens into as few chunks of at most `limit` as possible, of even sizes."""
    chunks = -(-count // max(1, limit))
    size = -(-count // chunks)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
