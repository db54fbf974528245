"""A hub of models on loopback: as much of the Hugging Face Hub's HTTP API as its client asks for."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]
TOKEN = "hf_made_up"
BAD_TOKEN = "Invalid credentials in Authorization header"
INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/main")
PREUPLOAD = re.compile(r"/api/models/[^/]+/[^/]+/preupload/main")


class FakeHub(ThreadingHTTPServer):
    """Holds repositories: `commits` of files by their digests, and `refs`, names of commits.

    Attributes:
        gated: repositories that nobody may read.
        visibility: of those that were created, by name.
        asked: the method and the path of each request.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.commits: dict[str, dict[str, Files]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.visibility: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    def commit(self, repo: str, files: Files, ref: str = "main") -> str:
        """Adds a commit with these files and lets a ref name it. Returns its digest."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.setdefault(repo, {})[digest] = files
        self.refs.setdefault(repo, {})[ref] = digest
        return digest

    def add_folder(self, repo: str, folder: Path, ref: str = "main") -> str:
        """Adds a commit with the files of a folder."""
        return self.commit(repo, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, ref)

    def list_fetched(self) -> list[str]:
        """The names of the files that were fetched, in order."""
        return sorted(match[3] for method, path in self.asked if method == "GET" and (match := FILE.fullmatch(path)))


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer_get()

    def do_GET(self) -> None:
        self.answer_get()

    def answer_get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        if path == "/api/whoami-v2":
            return self.send_json({"name": "ada"}) if self.has_token() else self.send(401, message=BAD_TOKEN)
        match = TREE.fullmatch(path) or FILE.fullmatch(path) or INFO.fullmatch(path)
        if not match:  # what a newer client asks for besides
            return self.send(404)
        repo, revision = match[1], match[2] or "main"
        if repo not in self.server.commits:
            return self.send(401, error="RepoNotFound")
        if repo in self.server.gated:
            return self.send(403, error="GatedRepo")
        digest = self.server.refs[repo].get(revision, revision)
        files = self.server.commits[repo].get(digest)
        if files is None:
            return self.send(404, error="RevisionNotFound")
        if match.re is INFO:
            names = [{"rfilename": name} for name in files]
            is_private = self.server.visibility.get(repo) == "private"
            return self.send_json({"id": repo, "sha": digest, "private": is_private, "siblings": names})
        if match.re is TREE:
            oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            return self.send_json(
                [{"type": "file", "path": name, "size": len(files[name]), "oid": oid} for name, oid in oids.items()]
            )
        content = files[match[3]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.send(200, content, **{"ETag": etag, "X-Repo-Commit": digest})

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.has_token():
            return self.send(401, message=BAD_TOKEN)
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.server.commits:
                return self.send_json({"url": f"{self.server.url}/{repo}"}, 409)
            self.server.visibility[repo] = asked["visibility"]
            self.server.commit(repo, {".gitattributes": b""})
            return self.send_json({"url": f"{self.server.url}/{repo}"})
        if PREUPLOAD.fullmatch(path):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.send_json({"files": modes})
        match = COMMIT.fullmatch(path)
        assert match, path
        repo = match[1]
        files = dict(self.server.commits[repo][self.server.refs[repo]["main"]])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        digest = self.server.commit(repo, files)
        return self.send_json({"commitUrl": f"{self.server.url}/{repo}/commit/{digest}", "commitOid": digest})

    def has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def send(self, status: int, content: bytes = b"", error: str = "", message: str = "", **headers: str) -> None:
        self.send_response(status)
        named = {"X-Error-Code": error, "X-Error-Message": message, "Content-Length": str(len(content))}
        for name, value in (named | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def fake_hub(cache: Path) -> Iterator[FakeHub]:
    """Runs a hub until the end of the `with` block, which huggingface_hub asks instead of its own.

    cache: the folder that it fetches into.
    """
    from huggingface_hub import constants

    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        # What the environment's HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE set when the package is imported.
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        hub.shutdown()
