"""A server whose answers are any bytes, for what a well-behaved one never sends."""

import contextlib
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[str, dict[str, str]], Iterator[bytes]]


class RawServer(socketserver.ThreadingTCPServer):
    """Sends the bytes that `answer(path, headers)` yields for a request, then closes the connection.

    The request's header names are in lower case. Requests are recorded in `asked`.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.context = answer, context
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.BaseRequestHandler):
    server: RawServer

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has enough, or does not trust the certificate
            connection = self.request
            if self.server.context:
                connection = self.server.context.wrap_socket(connection, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(4096)
                if not received:
                    return  # the client was killed
                request += received
            first, *lines = request.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            path = first.split(" ")[1]
            self.server.asked.append((path, headers))
            for chunk in self.server.answer(path, headers):
                connection.sendall(chunk)
            connection.close()


@contextlib.contextmanager
def raw_server(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Runs a server until the end of the `with` block."""
    with RawServer(answer, context) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def head(status: int, **headers: object) -> bytes:
    """The beginning of an answer. Underscores in the headers' names are hyphens."""
    lines = [f"HTTP/1.1 {status} Answer", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
