"""Addresses: which are this machine's own, and how they are listened on and written."""

import socket

import pytest

from gpt_tf2 import InputError
from gpt_tf2.serving.security import is_loopback, strip_port
from gpt_tf2.serving.server import describe_address, listen


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
    ],
)
def test_only_loopback_addresses_are_this_machines_own(host: str, local: bool) -> None:
    assert is_loopback(host) == local


def test_an_address_is_written_as_a_url() -> None:
    for host, url in [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")]:
        with listen(host, 0) as listening:
            assert describe_address(listening) == f"{url}{listening.getsockname()[1]}"


def test_connections_send_what_they_have_at_once() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "192.0.2.1", "\udc80"])
def test_what_cannot_be_listened_on_is_bad_input(host: str) -> None:
    with pytest.raises(InputError, match=r"no such address|cannot be listened on"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:80", "localhost"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
        ("", ""),
        (":80", ""),
        ("evil.org:127.0.0.1", "evil.org:127.0.0.1"),
    ],
)
def test_a_host_header_loses_its_port(header: str, name: str) -> None:
    assert strip_port(header) == name
