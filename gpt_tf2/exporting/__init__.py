"""A model for other programs: one module per format, and the proof that it arrived."""
