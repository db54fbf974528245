"""Text to figures: ROUGE and CoQA's F1, as their official programs compute them. Knows no model. Private."""
