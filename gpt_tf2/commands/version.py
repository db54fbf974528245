"""`--version`: this package, and the libraries that compute."""

import importlib.metadata
import platform

LIBRARIES = ("keras", "tensorflow", "jax", "ai-edge-litert")


def describe_version() -> str:
    """The versions of this package, of Python and of the installed libraries.

    Example:
        >>> describe_version()  # doctest: +SKIP
        'gpt-tf2 0.1.0 (Python 3.11.7, keras 3.15.1, tensorflow 2.21.0, jax 0.10.0, ai-edge-litert 2.1.1)'
    """
    installed = {name: find_version(name) for name in LIBRARIES}
    versions = [f"Python {platform.python_version()}", *(f"{name} {v}" for name, v in installed.items() if v)]
    return f"gpt-tf2 {find_version('gpt-tf2')} ({', '.join(versions)})"


def find_version(library: str) -> str | None:
    """The version of a library, or None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
