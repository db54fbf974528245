"""Decoding with LiteRT on a CPU. Private."""
