"""A hub of our own on this machine, as far as the real client of the Hugging Face Hub asks for
repositories of models: their list of files, the files, in parts too, and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

WRITER, READER = "hf_writer", "hf_reader"  # logins
LARGE = (".safetensors", ".mp4")  # kept apart and known by their sha256


@dataclass
class FakeRepository:
    """``commits``: the files of each, by its digest, the last one being the newest."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        told = json.dumps([len(self.commits), sorted(files)])
        sha = hashlib.sha1(told.encode()).hexdigest()
        self.commits[sha] = files
        return sha


class FakeHub(ThreadingHTTPServer):
    """``asked``: "METHOD path" of each call so far; ``damaged``: what is served of a file's
    content is another, though as long."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, FakeRepository] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.damaged = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes] | None = None, **how: bool) -> FakeRepository:
        repository = self.repositories[name] = FakeRepository(**how)
        repository.commit({".gitattributes": b"", **(files or {})})
        return repository


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def send_client_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client asks at ``url`` from now on, and in ways that it has in every version."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class _Refused(Exception):
    """``arguments``: the status, and what the hub calls it."""


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        try:
            if self.token not in ("", WRITER, READER):
                raise _Refused(401, "")
            for pattern, act in self.ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    act(self, *found.groups())
                    return
            raise _Refused(404, "EntryNotFound")
        except _Refused as refused:
            status, code = refused.args
            self._send(b"", status=status, headers={"X-Error-Code": code} if code else {})

    def _chunks(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def _send(self, content: bytes, *, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        given = {"Content-Length": str(len(content)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, answer: object) -> None:
        self._send(json.dumps(answer).encode(), headers={"Content-Type": "application/json"})

    def _repository(self, name: str, *, write: bool = False) -> FakeRepository:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.token):
            raise _Refused(404 if self.token else 401, "RepoNotFound")
        if write and self.token != WRITER:
            raise _Refused(403, "")
        return repository

    def _files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(name)
        sha = repository.head if revision == "main" else revision
        if sha not in repository.commits:
            raise _Refused(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _info(self, name: str, revision: str | None = None) -> None:
        sha, files = self._files(name, revision or "main")
        siblings = []
        for file, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            lfs = {"sha256": digest, "size": len(content), "pointerSize": 134}
            large = {"lfs": lfs} if file.endswith(LARGE) else {}
            siblings.append({"rfilename": file, "size": len(content), **large})
        private = self._repository(name).private
        told = {"id": name, "sha": sha, "private": private, "siblings": siblings, "tags": []}
        self._json(told | {"downloads": 0, "likes": 0})

    def _tree(self, name: str, revision: str) -> None:
        _, files = self._files(name, revision)
        told = []
        for file, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
            large = {"lfs": lfs} if file.endswith(LARGE) else {}
            told.append(
                {"type": "file", "path": file, "size": len(content), "oid": digest, **large}
            )
        self._json(told)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        sha, files = self._files(name, revision)
        if file not in files:
            raise _Refused(404, "EntryNotFound")
        content = files[file]
        told = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.server.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found:
            self._send(content, headers=told)
            return
        start, stop = int(found[1]), int(found[2] or len(content))
        self._send(content[start : stop + 1], status=206, headers=told)

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}" if "organization" in asked else "me/x"
        if self.token != WRITER:
            raise _Refused(403, "")
        if name in self.server.repositories:
            raise _Refused(409, "")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.add(name, private=bool(private))
        self._json({"url": f"{self.server.url}/{name}"})

    def _yaml(self) -> None:
        self._json({"warnings": [], "errors": []})

    def _preupload(self, name: str, _revision: str) -> None:
        self._repository(name, write=True)
        files = json.loads(self.body)["files"]
        modes = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for one in files
        ]
        self._json({"files": modes})

    def _batch(self, name: str) -> None:
        self._repository(name, write=True)
        wanted = json.loads(self.body)["objects"]
        up = f"{self.server.url}/uploads/"
        objects = [one | {"actions": {"upload": {"href": up + one["oid"]}}} for one in wanted]
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.uploads[oid] = self.body
        self._send(b"")

    def _commit(self, name: str, _revision: str) -> None:
        repository = self._repository(name, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        head, *changes = (line["value"] for line in lines)
        if head.get("parentCommit") not in (None, repository.head):
            raise _Refused(412, "")
        files = dict(repository.files)
        for change in changes:
            inline = "content" in change
            files[change["path"]] = (
                base64.b64decode(change["content"])
                if inline
                else self.server.uploads[change["oid"]]
            )
        sha = repository.commit(files)
        url = f"{self.server.url}/{name}/commit/{sha}"
        self._json({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    ROUTES = (
        (r"GET /api/models/([^/]+/[^/]+)", _info),
        (r"GET /api/models/([^/]+/[^/]+)/revision/(.+)", _info),
        (r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)", _tree),
        (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _resolve),
        (r"POST /api/repos/create", _create),
        (r"POST /api/validate-yaml", _yaml),
        (r"POST /api/models/([^/]+/[^/]+)/preupload/([^/]+)", _preupload),
        (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
        (r"PUT /uploads/([0-9a-f]+)", _upload),
        (r"POST /api/models/([^/]+/[^/]+)/commit/([^/]+)", _commit),
    )
