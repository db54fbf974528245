"""Byte-level vocabularies: the two forms in which they are kept, and how files of others become one of them."""
