"""Downloads from servers that lie, stall or change their files: no other bytes get a file's name."""

import base64
import hashlib
import random
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints import download
from gpt_tf2.checkpoints.download import download_file
from helpers.markers import skip_on_jax
from helpers.processes import ROOT
from helpers.raw_http import Answer, head, raw_server
from helpers.workplace import list_names

pytestmark = skip_on_jax

BODY = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
HALF = len(BODY) // 2
Headers = dict[str, str]


def send_in_turn(*answers: bytes) -> Answer:
    """Each of the answers to one request, then always the last."""
    waiting = list(answers)
    return lambda path, headers: iter([waiting.pop(0) if len(waiting) > 1 else waiting[0]])


def whole(body: bytes = BODY, **headers: object) -> bytes:
    return head(200, Content_Length=len(body), **headers) + body


def half(**headers: object) -> bytes:
    """The first half of the file, after which the connection breaks."""
    return whole(**headers)[: -len(BODY) + HALF]


def rest(body: bytes = BODY, **headers: object) -> bytes:
    headers = {"Content_Range": f"bytes {HALF}-{len(body) - 1}/{len(body)}", **headers}
    return head(206, Content_Length=len(body) - HALF, **headers) + body[HALF:]


def md5(body: bytes = BODY) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TAG = {"ETag": '"a"'}

LAST_BYTES = head(206, **TAG, Content_Length=9, Content_Range="bytes 299991-299999/300000") + BODY[-9:]

# Answers to the requests one after the other, and the requests' ranges. The file arrives whole in the end.
RESUMED: dict[str, tuple[list[bytes], list[str | None]]] = {
    "the same ETag": ([half(**TAG), rest(**TAG)], [None, "rest"]),
    "an MD5 with the first answer only": ([half(**TAG, Content_MD5=md5()), rest(**TAG)], [None, "rest"]),
    "an MD5 with each answer": ([half(x_goog_hash=f"md5={md5()}"), rest(x_goog_hash=f"md5={md5()}")], [None, "rest"]),
    "another ETag": ([half(**TAG), rest(OTHER, ETag='"b"'), whole(ETag='"b"')], [None, "rest", None]),
    "a weak ETag": ([half(ETag='W/"a"'), rest(ETag='W/"a"'), whole()], [None, "rest", None]),
    "no ETag and no MD5": ([half(), rest(OTHER), whole()], [None, "rest", None]),
    "an ETag once only": ([half(**TAG), rest(OTHER), whole()], [None, "rest", None]),
    "another MD5": (
        [half(**TAG, Content_MD5=md5()), rest(OTHER, x_goog_hash=f"md5={md5(OTHER)}"), whole()],
        [None, "rest", None],
    ),
    "an MD5 with the second answer only, which is another file's": (
        [half(**TAG), rest(OTHER, x_goog_hash=f"md5={md5(OTHER)}")[:-9], LAST_BYTES, whole()],
        [None, "rest", "bytes=299991-", None],
    ),
    "the whole file instead": ([half(**TAG), whole()], [None, "rest"]),
    "another place": ([half(**TAG), rest(**TAG, Content_Range="bytes 0-149999/300000"), whole()], [None, "rest", None]),
    "another length": (
        [half(**TAG), rest(**TAG, Content_Range=f"bytes {HALF}-300000/300001"), whole()],
        [None, "rest", None],
    ),
    "no place": ([half(**TAG), rest(**TAG, Content_Range="x"), whole()], [None, "rest", None]),
    "no total": ([half(**TAG), rest(**TAG, Content_Range=f"bytes {HALF}-299999/*"), whole()], [None, "rest", None]),
    "several parts": (
        [half(**TAG), head(206, **TAG, Content_Type="multipart/byteranges", Content_Length=3) + b"--x", whole()],
        [None, "rest", None],
    ),
    "a part that nobody asked for": ([rest(), whole()], [None, None]),
    "more bytes than announced": ([whole() + b"more"], [None]),
    "chunks": ([head(200, Transfer_Encoding="chunked") + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"], [None]),
    "half of the chunks": (
        [head(200, Transfer_Encoding="chunked") + b"%x\r\n" % len(BODY) + BODY[:9], whole()],
        [None, "bytes=9-"],
    ),
    "a length that is no number": ([head(200, Content_Length="many") + BODY, whole()], [None, None]),
    "two lengths": ([head(200, Content_Length="5, 300000") + BODY, whole()], [None, None]),
    "an MD5 that is none": ([whole(Content_MD5="%%%"), whole(Content_MD5=md5())], [None, None]),
    "a wrong MD5": ([whole(Content_MD5=md5(OTHER)), whole(Content_MD5=md5())], [None, None]),
    "bytes that are not HTTP": ([b"\x00\xff\r\n\r\n" * 99, whole()], [None, None]),
    "nothing": ([b"", whole()], [None, None]),
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_the_rest_of_a_file_is_added_only_if_it_is_the_same_file(name: str, tmp_path: Path) -> None:
    answers, ranges = RESUMED[name]
    with raw_server(send_in_turn(*answers)) as server:
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert (tmp_path / "f").read_bytes() == BODY
    assert list_names(tmp_path) == ["f"]
    expected = [f"bytes={HALF}-" if asked == "rest" else asked for asked in ranges]
    assert [headers.get("range") for _, headers in server.asked] == expected
    for _, headers in server.asked:
        assert headers["accept-encoding"] == "identity"
        assert headers.get("if-range", '"a"') == '"a"'


REFUSED: dict[str, tuple[list[bytes], list[str]]] = {
    "compressed": ([whole(Content_Encoding="gzip")], ["encoded (gzip)"]),
    "a web page": ([whole(b"<html>", Content_Type="Text/HTML; charset=utf-8")], ["web page"]),
    "no length": ([head(200) + BODY], ["does not say how long"]),
    "too long": ([whole(BODY * 4)], ["1,200,000 bytes", "at most 1,000,000"]),
    "chunks without end": (
        [head(200, Transfer_Encoding="chunked") + (b"10000\r\n" + bytes(65536) + b"\r\n") * 50],
        ["more than 1,000,000"],
    ),
    "a wrong MD5 twice": ([whole(OTHER, Content_MD5=md5())], ["MD5 differs"]),
    "a circle": ([head(302, Location="/f", Content_Length=0, Connection="close")], ["redirects without end"]),
    "a redirect to nowhere": ([head(302, Location="http://[", Content_Length=0)], ["127.0.0.1"]),
    "a redirect to a file": ([head(302, Location="file:///etc/passwd", Content_Length=0)], ["https://"]),
    "a redirect without an address": ([head(302, Content_Length=0)], ["answers 302"]),
    "an endless header": ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000], ["try again later"]),
    "a nul in a header": ([b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 0\r\n\r\n"], ["try again later"]),
    "no such file": ([head(404, Content_Length=0)], ["answers 404"]),
    "switching": ([head(101, Content_Length=0)], ["127.0.0.1"]),
    "a colored answer": ([head(200, Content_Encoding="\x1b[31m", Content_Length=0)], ["127.0.0.1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    answers, words = REFUSED[name]
    with raw_server(send_in_turn(*answers)) as server, pytest.raises(InputError) as error:
        download_file(f"{server.url}/f", tmp_path / "f", wait=0, largest=1_000_000)
    message = str(error.value)
    assert message.isprintable() and len(message) <= 300
    assert all(word in message for word in words), message
    assert not (tmp_path / "f").exists()


ADDRESSES = [
    *("", "x", "ftp://x/f", "http://", "http:///f", "https://[", "http://[::1/f", "http://127.0.0.1:99999/f", "file:///f"),
    *("http://127.0.0.1:x/f", "http://exa mple/f", "http://\x00/f", "http://a\nb/f", "http://xn--/f", "http://%/f"),
    *("http://\udcff/f", "http://" + "a" * 70 + "/f", "http://" + "a." * 200 + "/f", "//x/f", "http://127.0.0.1:0/f"),
    *("http://\u2028/f", "http://127.0.0.1:9/\udcff", "http://127.0.0.1:9/" + "f" * 70000, "http://ﷺ/f", "HTTP:/f"),
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES, ids=range(len(ADDRESSES)))
def test_an_address_that_is_none_ends_in_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        download_file(address, tmp_path / "f", wait=0)
    assert str(error.value).isprintable() and len(str(error.value)) <= 300
    assert list_names(tmp_path) == []


def test_what_is_damaged_is_fetched_again_and_a_damaged_file_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def find_damage(path: Path) -> str:
        return "" if path.read_bytes() == BODY else "not the file"

    (tmp_path / "f").write_bytes(OTHER)
    with raw_server(send_in_turn(whole(OTHER))) as server, pytest.raises(InputError, match="not the file"):
        download_file(f"{server.url}/f", tmp_path / "f", wait=0, find_damage=find_damage)
    assert len(server.asked) == 2
    assert list_names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == OTHER  # until there is a better one
    assert "f: not the file: fetching it again" in capsys.readouterr().err
    with raw_server(send_in_turn(whole(OTHER), whole())) as server:
        download_file(f"{server.url}/f", tmp_path / "f", wait=0, find_damage=find_damage)
        download_file(f"{server.url}/f", tmp_path / "f", wait=0, find_damage=find_damage)
    assert len(server.asked) == 2
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: ", head(200, Content_Length=10**6)]
)
def test_a_server_that_never_finishes_is_given_up(
    begin: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)

    given_up = threading.Event()

    def answer(path: str, headers: Headers) -> Iterator[bytes]:
        yield begin
        while not given_up.wait(0.02):
            yield b"x" if begin else b""

    with raw_server(answer) as server, pytest.raises(InputError, match="try again later"):
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    given_up.set()
    assert not (tmp_path / "f").exists()


def test_a_killed_download_resumes_with_the_same_file_only(tmp_path: Path) -> None:
    def answer(path: str, headers: Headers) -> Iterator[bytes]:
        yield half(**TAG)
        time.sleep(60)

    with raw_server(answer) as server:
        code = f"from gpt_tf2.checkpoints.download import *; download_file('{server.url}/f', Path('f'))"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        while not (tmp_path / "f.part").exists() or (tmp_path / "f.part").stat().st_size < HALF // 2:
            time.sleep(0.01)
        process.kill()
        process.wait()
        size = (tmp_path / "f.part").stat().st_size
        assert list_names(tmp_path) == [".f.gpt_tf2-lock", "f.part", "f.part.json"]

        def send_rest(path: str, headers: Headers) -> Iterator[bytes]:
            assert headers["if-range"] == '"a"'
            yield head(206, Content_Length=len(BODY) - size, Content_Range=f"bytes {size}-299999/300000", ETag='"a"')
            yield BODY[size:]

        server.answer = send_rest
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert (tmp_path / "f").read_bytes() == BODY
    assert list_names(tmp_path) == ["f"]


def test_a_download_killed_at_its_last_byte_fetches_nothing(tmp_path: Path) -> None:
    with raw_server(send_in_turn(half(**TAG), head(416, Content_Range="bytes */150000", ETag='"a"'))) as server:
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert (tmp_path / "f").read_bytes() == BODY[:HALF]


def test_another_servers_part_is_not_continued_without_an_md5(tmp_path: Path) -> None:
    with raw_server(send_in_turn(half(**TAG), head(404, Content_Length=0))) as server, pytest.raises(InputError):
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert list_names(tmp_path) == ["f.part", "f.part.json"]
    with raw_server(send_in_turn(rest(OTHER, **TAG), whole(OTHER))) as server:
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert (tmp_path / "f").read_bytes() == OTHER
    assert "if-range" not in server.asked[0][1]


@pytest.mark.parametrize(
    "known", [b"[" * 100_000, b"9" * 5000, b"\xff", b"7", b'{"tide": 1}', b'{"url": 7, "etag": []}']
)
def test_a_part_of_which_nothing_is_known_is_fetched_again(known: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(OTHER[:HALF])
    (tmp_path / "f.part.json").write_bytes(known)
    with raw_server(send_in_turn(rest(**TAG), whole())) as server:
        download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert (tmp_path / "f").read_bytes() == BODY
    assert "if-range" not in server.asked[0][1]


def test_two_downloads_of_a_file_at_once_make_one(tmp_path: Path) -> None:
    asked, waiting = threading.Event(), threading.Event()

    def answer(path: str, headers: Headers) -> Iterator[bytes]:
        asked.set()
        yield half()
        waiting.wait(60)
        yield BODY[HALF:]

    def start(url: str) -> subprocess.Popen:
        code = f"from gpt_tf2.checkpoints.download import *; download_file('{url}/f', Path('f'))"
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )

    with raw_server(answer) as server:
        first = start(server.url)
        assert asked.wait(60)
        second = start(server.url)
        assert second.stderr.readline() == "f: another process is downloading it: waiting\n"
        waiting.set()
        assert [process.communicate(timeout=60)[1] for process in (first, second)] == ["", ""]
    assert first.returncode == second.returncode == 0
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(server.asked) == 1
    assert list_names(tmp_path) == ["f"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the key and the certificate of 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    make += f" -addext subjectAltName=IP:127.0.0.1 -keyout {path.with_name('key')} -out {path.with_name('certificate')}"
    subprocess.run(["openssl", *make.split()], check=True, capture_output=True)
    path.write_text(path.with_name("key").read_text() + path.with_name("certificate").read_text())
    return path


def test_https_is_not_left_for_http(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with raw_server(send_in_turn(whole())) as plain:
        to_plain = send_in_turn(head(302, Location=f"{plain.url}/f", Content_Length=0))
        with raw_server(to_plain, context) as server:
            with pytest.raises(InputError, match="try again later"):  # nobody trusts it
                download_file(f"{server.url}/f", tmp_path / "f", wait=0)
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            with pytest.raises(InputError, match="redirects to http, where anyone"):
                download_file(f"{server.url}/f", tmp_path / "f", wait=0)
            assert plain.asked == []
            server.answer = send_in_turn(head(302, Location="/g", Content_Length=0), whole())
            download_file(f"{server.url}/f", tmp_path / "f", wait=0)
    assert (tmp_path / "f").read_bytes() == BODY


VERSIONS = {b'"a"': BODY[:3000], b'"b"': OTHER[:2900]}
ODD_HEADERS = [
    *(b"Content-Encoding: identity", b"Content-Encoding: br", b"Content-Type: text/html", b"Content-Type: \xff/\xfe"),
    *(
        b"ETag: \xff",
        b'ETag: "',
        b"Content-Range: bytes 0-0/1",
        b"Content-Range: bytes 9-8/7",
        b"Content-MD5: =",
        b"X:",
    ),
    *(b"Content-MD5: AAAA", b"x-goog-hash: md5==", b"x-goog-hash: md5=AAAA,md5=BBBB", b"Content-Length: -1", b": x"),
    *(b"Content-Length: 99999999999999999999", b"Content-Length: \xb2", b"Transfer-Encoding: gzip", b" folded: x"),
    *(b"Set-Cookie: \xff=\x01; expires=never", b"Location: http://[/", b"Connection: upgrade", b"Date: " + b"9" * 9000),
    *(b"Trailer: x", b"Keep-Alive: timeout=-1", b"X: " + b"y" * 200_000, b"Content-Length: 3000\r\nContent-Length: 1"),
]
STATUSES = [
    b"100",
    b"101",
    b"204",
    b"206",
    b"301",
    b"304",
    b"307",
    b"401",
    b"416",
    b"429",
    b"503",
    b"999",
    b"99",
    b"abc",
]
LOCATIONS = [
    b"/f",
    b"//",
    b"http://\xff/",
    b"http://127.0.0.1:99999/",
    b"ftp://x",
    b"?" * 70000,
    b"\x01",
    b"http:///",
    b"",
]


def write_answer(draw: random.Random, headers: Headers) -> bytes:
    """An answer that is true of the file's version, but leaves out, adds and breaks what it can."""
    etag, body = draw.choice(list(VERSIONS.items()))
    start = int(headers.get("range", "bytes=0-")[6:-1])
    lines = [] if draw.random() < 0.3 else [b"ETag: " + etag]
    if draw.random() < 0.3:
        lines.append(b"x-goog-hash: crc32c=AAAA,md5=" + md5(body).encode())
    if 0 < start < len(body) and draw.random() < 0.8:
        first = b"HTTP/1.1 206 OK"
        lines.append(b"Content-Range: bytes %d-%d/%d" % (start, len(body) - 1, len(body)))
        body = body[start:]
    elif start == len(body) and draw.random() < 0.8:
        first = b"HTTP/1.1 416 No"
        lines.append(b"Content-Range: bytes */%d" % len(body))
    else:
        first = b"HTTP/1.1 200 OK"
    framing = draw.random()
    if framing < 0.7:
        lines.append(b"Content-Length: %d" % len(body))
    elif framing < 0.9:
        lines.append(b"Transfer-Encoding: chunked")
        body = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:700], body[700:], b"") if part or not body
        )
        body += b"0\r\n\r\n"
    if draw.random() < 0.2:
        first = b"HTTP/1.1 " + draw.choice(STATUSES) + b" Odd"
        lines.append(b"Location: " + draw.choice(LOCATIONS))
    for _ in range(draw.choice([0, 0, 1, 3])):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(ODD_HEADERS))
    if draw.random() < 0.5:
        body = body[: draw.randrange(len(body) + 1)]
    return b"\r\n".join([first, *lines, b"", body])


def mutate(draw: random.Random, content: bytes) -> bytes:
    """The bytes with some changed, cut out, repeated or added, mostly at the beginning."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(draw.choice([40, 300, len(changed) + 1])) % (len(changed) + 1)
        size = draw.choice([1, 1, 1, 7, 100])
        changed[at : at + draw.choice([0, 1, size])] = draw.choice(
            [b"", draw.randbytes(size), changed[at : at + size] * 2, b"\r\n", b"9" * size]
        )
    return bytes(changed)


@pytest.mark.parametrize("inputs", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_broken", [False, True])
def test_no_answers_make_a_file_of_other_bytes(
    inputs: int, is_broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL", 2.0)
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: TLS)  # reads no certificates each time
    draw = random.Random(inputs)
    complete = 0

    def answer(path: str, headers: Headers) -> Iterator[bytes]:
        content = write_answer(draw, headers)
        yield mutate(draw, content) if is_broken and draw.random() < 0.5 else content

    def find_damage(path: Path) -> str:
        return "" if not is_broken or path.read_bytes() in VERSIONS.values() else "other bytes"

    with raw_server(answer) as server:
        for number in range(inputs):
            path = tmp_path / f"{number}"
            try:
                download_file(f"{server.url}/f", path, wait=0, find_damage=find_damage, largest=10_000)
            except InputError as error:
                assert str(error).isprintable() and len(str(error)) <= 300
                assert not path.exists()
            else:
                assert path.read_bytes() in VERSIONS.values(), number
                complete += 1
    assert inputs / 5 < complete < inputs
