"""Who may ask: holders of the key, or without one only programs that call the server by this machine's name."""

import hmac
import ipaddress
import socket

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.connection import JSON
from gpt_tf2.serving.page_files import is_of_page

OPEN_PATHS = ("/health",)  # for load balancers, which hold no key
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Lets only those requests through to an application that may ask it.

    Args:
        api_key: what each must send as `Authorization: Bearer KEY`; None: nothing.
        local: whether requests must call the server by a name of this machine. A web page could otherwise reach a
            server without a key by a name of its own that leads here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, api_key: str | None, local: bool):
        self.app, self.api_key, self.local = app, api_key, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"] in OPEN_PATHS or is_of_page(scope["path"])
        error = None if is_open else self.check(Headers(scope=scope))
        if error is None:
            await self.app(scope, receive, send)
        else:
            await JSON(error.to_json(), error.status)(scope, receive, send)

    def check(self, headers: Headers) -> ApiError | None:
        """The error of a request that may not ask; None if it may."""
        if self.local and strip_port(headers.get("host", "")) not in LOCAL_NAMES:
            return ApiError(f"this server answers to these names only: {', '.join(LOCAL_NAMES)}", status=403)
        if self.api_key is None:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.api_key.encode()):
            return None
        message = "wrong API key" if key else "no API key: send it as Authorization: Bearer KEY"
        return ApiError(message, status=401, code="invalid_api_key")


def strip_port(host: str) -> str:
    """A Host header's name.

    Example:
        >>> strip_port("[::1]:8000"), strip_port("LocalHost")
        ('[::1]', 'localhost')
    """
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def is_loopback(host: str) -> bool:
    """Whether an address, or all that a name leads to, can only be reached from this machine.

    Raises OSError if there is no such host.
    """
    addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
