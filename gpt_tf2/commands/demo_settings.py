"""The settings of `demo`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """The demo has no settings."""
