"""Text to batches: encoding, prepared tokens, packing. Private."""
