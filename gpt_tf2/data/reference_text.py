"""The text that is always at hand: Python's language reference, which ships in the standard library."""

import pydoc_data.topics
import zlib


def read_reference_text() -> str:
    """The topics of the language reference, about 465,000 characters.

    Their order is fixed but mixed, so that the end, which the demo holds out, is like the rest.
    """
    topics = pydoc_data.topics.topics
    names = sorted(topics, key=lambda name: zlib.crc32(name.encode()))
    return "\n\n".join(topics[name].strip() for name in names) + "\n"
