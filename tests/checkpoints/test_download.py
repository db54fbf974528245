"""Downloads from a real server on this machine, which fails as servers do."""

import base64
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.download import ATTEMPTS, download_file
from helpers.workplace import list_names

BODY = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next of `answers`, then always with the last; records requests in `asked`."""

    answers: list[str]
    header = "x-goog-hash"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = ["whole"]
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        if answer.isdigit():
            self.send_response(int(answer))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and answer != "no ranges" else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        body = BODY[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        digest = base64.b64encode(hashlib.md5(BODY).digest()).decode()
        if server.header == "x-goog-hash":
            self.send_header("x-goog-hash", "crc32c=AAAAAA==")
            self.send_header("x-goog-hash", f"md5={digest}")
        else:
            self.send_header(server.header, digest)
        self.end_headers()
        if answer == "drop":
            body = body[: len(body) // 2]
        if answer == "corrupt":
            body = body[:100] + bytes([body[100] ^ 1]) + body[101:]
        self.wfile.write(body)
        self.wfile.flush()
        if answer == "drop":
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_dropped_transfer_is_resumed_after_503s(server: Server, tmp_path: Path) -> None:
    server.answers = ["drop", "503", "503", "whole"]
    seen: list[tuple[int, int | None]] = []
    download_file(f"{server.url}/f", tmp_path / "f", lambda *step: seen.append(step), wait=0.01)
    assert (tmp_path / "f").read_bytes() == BODY
    half = f"bytes={len(BODY) // 2}-"
    assert [asked for _, asked in server.asked] == [None, half, half, half]
    assert seen[-1] == (len(BODY), len(BODY))
    assert list_names(tmp_path) == ["f"]


def test_a_corrupted_rest_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.answers = ["drop", "503", "503", "corrupt"]
    with pytest.raises(InputError, match="MD5"):
        download_file(f"{server.url}/f", tmp_path / "f", wait=0.01)
    assert list_names(tmp_path) == []
    server.answers = ["whole"]
    download_file(f"{server.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("header", ["x-goog-hash", "Content-MD5"])
def test_a_corrupted_file_is_refused(server: Server, tmp_path: Path, header: str) -> None:
    server.answers, server.header = ["corrupt"], header
    with pytest.raises(InputError, match="MD5"):
        download_file(f"{server.url}/f", tmp_path / "f", wait=0.01)
    assert list_names(tmp_path) == []


def test_a_later_run_resumes_the_partial_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    download_file(f"{server.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.asked == [("/f", "bytes=1000-")]


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    server.answers = ["no ranges"]
    download_file(f"{server.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_partial_file_that_is_too_long_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY + b"x")
    download_file(f"{server.url}/f", tmp_path / "f", wait=0.01)
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_download_gives_up_after_some_attempts_and_keeps_the_partial_file(server: Server, tmp_path: Path) -> None:
    server.answers = ["drop", "503"]
    with pytest.raises(InputError, match=r"503.*try again later"):
        download_file(f"{server.url}/f", tmp_path / "f", wait=0.001)
    assert len(server.asked) == 1 + ATTEMPTS - 1
    assert list_names(tmp_path) == ["f.part"]


def test_a_refused_request_is_not_repeated(server: Server, tmp_path: Path) -> None:
    server.answers = ["404"]
    with pytest.raises(InputError, match="404"):
        download_file(f"{server.url}/f", tmp_path / "f")
    assert len(server.asked) == 1


def test_a_server_that_does_not_listen_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check the network"):
        download_file("http://127.0.0.1:9/f", tmp_path / "f", wait=0.001)
