"""A small Hugging Face Hub on this machine: what the client asks of it to find, fetch and publish models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from servers import _Server

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: files by branch."""

    branches: dict[str, Files] = field(default_factory=lambda: {"main": {}})
    private: bool = False
    proposals: list[Files] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def sha(self, revision: str) -> str | None:
        """The commit of a branch, or the commit itself."""
        for name, files in self.branches.items():
            content = b"".join(key.encode() + files[key] for key in sorted(files))
            sha = hashlib.sha1(content).hexdigest()
            if revision in (name, sha):
                return sha
        return None

    def files(self, revision: str) -> Files:
        """The files of a branch or a commit."""
        return next(files for name, files in self.branches.items() if revision in (name, self.sha(name)))


class HuggingFace:
    """The Hub.

    Args:
        token: A token that private repositories ask for.
    """

    def __init__(self, token: str = "secret") -> None:
        self.repositories: dict[str, Repository] = {}
        self.token = token
        self.log: list[str] = []
        own = self

        class Own(_Handler):
            hub = own

        self._server = _Server(("127.0.0.1", 0), Own)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HuggingFace:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str, revision: str = "main") -> dict[str, Any]:
        """What it says of a repository."""
        repository = self.repositories[name]
        files = repository.files(revision)
        card: dict[str, Any] = {}
        if readme := files.get("README.md", b"").decode():
            card = yaml.safe_load(readme.split("---")[1])
        config = json.loads(files.get("adapter_config.json", b"{}"))
        return {
            "id": name,
            "modelId": name,
            "author": name.partition("/")[0],
            "sha": repository.sha(revision),
            "tags": card.get("tags", []),
            "cardData": card,
            "config": {"adapter_transformers": {k: config[k] for k in ("model_name", "config") if k in config}},
            "siblings": [{"rfilename": path} for path in files],
        }


class _Handler(BaseHTTPRequestHandler):
    hub: HuggingFace
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Headers of a file."""
        self._route("HEAD")

    def do_GET(self) -> None:
        """A file, or what is known of one."""
        self._route("GET")

    def do_POST(self) -> None:
        """A change."""
        self._route("POST")

    def _route(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) if method == "POST" else b""
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.log.append(f"{method} {path}")
        for pattern, action in _ROUTES:
            if match := re.fullmatch(pattern, f"{method} {path}"):
                action(self, body, parse_qs(url.query), **match.groupdict())
                return
        self._json({"error": f"no route {method} {path}"}, 404)

    def _json(self, data: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(data).encode(), status, **headers)

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, repo: str, revision: str | None = None) -> Repository | None:
        """A repository that the client may see; else the answer is sent that it is not there."""
        found = self.hub.repositories.get(repo)
        allowed = found is not None and (
            not found.private or self.headers.get("authorization") == f"Bearer {self.hub.token}"
        )
        if found is None or not allowed:
            self._json({"error": "Repository not found"}, 401, X_Error_Code="RepoNotFound")
            return None
        if revision is not None and found.sha(revision) is None:
            self._json({"error": "Invalid rev"}, 404, X_Error_Code="RevisionNotFound")
            return None
        return found

    def list_models(self, body: bytes, query: dict[str, list[str]]) -> None:
        """Public models with a tag."""
        tag = query.get("filter", [""])[0]
        names = [name for name, repository in self.hub.repositories.items() if not repository.private]
        self._json([info for name in names if tag in (info := self.hub.model(name))["tags"]])

    def model_info(self, body: bytes, query: object, repo: str, revision: str = "main") -> None:
        """What is known of a model."""
        if self._repository(repo, revision):
            self._json(self.hub.model(repo, revision))

    def tree(self, body: bytes, query: object, repo: str, revision: str) -> None:
        """The files of a model."""
        if repository := self._repository(repo, revision):
            files = repository.files(revision).items()
            self._json(
                [
                    {"type": "file", "path": p, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for p, data in files
                ]
            )

    def resolve(self, body: bytes, query: object, repo: str, revision: str, path: str) -> None:
        """A file."""
        repository = self._repository(repo, revision)
        if repository is None:
            return
        content = repository.files(revision).get(path)
        if content is None:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._send(content, ETag=etag, X_Repo_Commit=str(repository.sha(revision)))

    def create(self, body: bytes, query: object) -> None:
        """A new repository."""
        data = json.loads(body)
        name = f"{data.get('organization') or 'me'}/{data['name']}"
        is_new = name not in self.hub.repositories
        if is_new:
            self.hub.repositories[name] = Repository(
                private=bool(data.get("private")) or data.get("visibility") == "private"
            )
        answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        self._json(answer if is_new else {"error": "You already created this repo", **answer}, 200 if is_new else 409)

    def branch(self, body: bytes, query: object, repo: str, revision: str) -> None:
        """A new branch."""
        if repository := self._repository(repo):
            repository.branches.setdefault(revision, dict(repository.branches["main"]))
            self._json({})

    def validate(self, body: bytes, query: object) -> None:
        """Whether metadata are right."""
        yaml.safe_load(json.loads(body)["content"].split("---")[1])
        self._json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, query: object, repo: str, revision: str) -> None:
        """How files are to be sent: all within the commit."""
        if self._repository(repo, revision):
            names = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in names]})

    def commit(self, body: bytes, query: dict[str, list[str]], repo: str, revision: str) -> None:
        """New files."""
        repository = self._repository(repo, revision)
        if repository is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        repository.messages += [line["value"]["summary"] for line in lines if line["key"] == "header"]
        address = {"commitUrl": f"{self.hub.url}/{repo}/commit/0", "commitOid": "0" * 40}
        if query.get("create_pr"):
            repository.proposals.append(files)
            self._json({**address, "pullRequestUrl": f"{self.hub.url}/{repo}/discussions/1"})
            return
        repository.branches[revision].update(files)
        self._json(address)


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"GET /api/models", _Handler.list_models),
    (rf"GET /api/models/{_REPO}", _Handler.model_info),
    (rf"GET /api/models/{_REPO}/revision/(?P<revision>.+)", _Handler.model_info),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>[^/]+)/?", _Handler.tree),
    (rf"(GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    (r"POST /api/repos/create", _Handler.create),
    (rf"POST /api/models/{_REPO}/branch/(?P<revision>.+)", _Handler.branch),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
]
