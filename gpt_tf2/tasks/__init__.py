"""What data means: one module a task. A task knows its raw data and how it is scored; it knows no model."""
