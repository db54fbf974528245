"""Scoring: ROUGE and CoQA's F1, as their official programs compute them."""
