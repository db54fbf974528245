"""Tasks: one module each. A task knows its raw data, and no model."""
