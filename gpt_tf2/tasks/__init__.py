"""What data means: one module per task. A task knows its raw data and how it is scored; it knows no model.

Public: what docs/tasks.md names. The rest is private.
"""
