"""The settings of commands that serve: the address, and who may ask."""

import dataclasses
import os

from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.errors import InputError

PACKAGES = ("starlette", "uvicorn", "prometheus_client", "anyio")
API_KEY_VARIABLE = "GPT_TF2_API_KEY"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings that `serve` and `watch` share.

    Raises InputError for a value that is out of range, or that contradicts another.
    """

    host: str = flag("127.0.0.1", "address to listen on; any but this machine's own needs --api_key", group="server")
    port: int = flag(8000, "port to listen on, 0: any free one", group="server", kind=int, at_least=0, at_most=65535)
    api_key: str | None = flag(
        None,
        f"the key that clients must send; better set {API_KEY_VARIABLE}, which no process list shows",
        group="server",
    )
    no_auth: bool = flag(False, "let everyone who can reach the address ask", group="server", kind=bool)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.api_key is not None and (not self.api_key or not self.api_key.isascii() or " " in self.api_key):
            raise InputError("use a text without spaces, in ASCII", "api_key")
        if self.api_key and self.no_auth:
            raise InputError("contradicts `api_key`: drop one", "no_auth")

    def find_key(self) -> str | None:
        """The key that clients must send, if any."""
        return None if self.no_auth else self.api_key or os.environ.get(API_KEY_VARIABLE) or None

    def check_address(self) -> bool:
        """Whether only this machine can reach the address. Raises InputError if others can, but no key is asked for."""
        from gpt_tf2.serving.security import is_loopback

        try:
            local = is_loopback(self.host)
        except (OSError, UnicodeError):
            raise InputError("no such address: give one of this machine", "host", self.host) from None
        if not local and self.find_key() is None and not self.no_auth:
            fix = f"set `api_key` or {API_KEY_VARIABLE}, or `no_auth` if everyone may ask"
            raise InputError(f"other machines can reach it: {fix}", "host", self.host)
        return local


def missing_package(error: ModuleNotFoundError, command: str) -> InputError:
    """The error for a package of the extra `serve` that is not installed. Raises any other error again."""
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        raise error
    return InputError(f"{command} needs {package}: run pip install '.[serve]'")
