"""ROUGE and CoQA's F1 and exact match, as their official programs compute them."""
