"""A model in the formats of other programs, and the proof that it arrived there as it is."""
