"""A model hub on the loopback device: the requests that huggingface_hub makes to push, and what arrived by them.

It answers as the hub does, as far as the library's source shows: create repository, branch, information, list of files,
check of metadata, preupload, git-LFS batch, upload, verification, commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_standInThatMayWrite"
READER = "hf_standInThatMayOnlyRead"


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Hub:
    """What the stand-in holds, and how it is told to misbehave.

    Attributes:
        repositories: `OWNER/NAME` -> repository.
        objects: SHA-256 -> bytes that were uploaded by LFS.
        requests: method and path of every request, in order.
        tokens: every authorization that came.
        fail: part of a path -> status to answer there.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    fail: dict[str, int] = field(default_factory=dict)
    metadata_warning: str | None = None

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[repository].branches[branch]


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self.chunks()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{method} {path}")
        try:
            for part, status in self.hub.fail.items():
                if part in path:
                    raise Refused(status, "told to fail")
            found = self.upload(path, body) if method == "PUT" else self.api(method, path, body)
            self.send(200, found)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self.send(refused.status, {"error": refused.message}, headers)

    def chunks(self) -> bytes:
        """A body that comes in chunks, as uploads do."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    # What the hub answers -----------------------------------------------------------------------------------------------

    def api(self, method: str, path: str, body: bytes) -> Any:
        token = self.headers.get("Authorization")
        self.hub.tokens.add(token)
        if token not in {f"Bearer {TOKEN}", f"Bearer {READER}"}:
            raise Refused(401, "Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return self.check_metadata(json.loads(body)["content"])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        if path == "/verify":
            asked = json.loads(body)
            if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
                raise Refused(404, "no such object")
            return {}
        if method == "POST" and token == f"Bearer {READER}":
            raise Refused(403, "You don't have the rights to create a model under this namespace")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        _, _, _, owner, name, *rest = path.split("/")
        repository = self.hub.repositories.get(f"{owner}/{name}")
        if repository is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        match rest:
            case []:
                return {"id": f"{owner}/{name}", "private": repository.private, "sha": "0" * 40}
            case ["branch", branch]:
                if branch in repository.branches:
                    raise Refused(409, "Reference already exists")
                repository.branches[branch] = dict(repository.branches["main"])
                return {}
            case ["tree", branch]:
                files = repository.branches[branch]
                return [{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in files.items()]
            case ["preupload", branch]:
                return self.preupload(json.loads(body))
            case ["commit", branch]:
                return self.commit(f"{owner}/{name}", repository, branch, body)
        raise Refused(404, f"nobody knows {path}")

    def check_metadata(self, content: str) -> dict[str, Any]:
        _, block, _ = content.split("---\n", 2)
        data = yaml.safe_load(block)
        for result in data["model-index"][0]["results"]:
            assert result["task"]["type"]
            assert result["dataset"]["type"]
            assert result["metrics"]
        warning = self.hub.metadata_warning
        return {"errors": [], "warnings": [{"message": warning}] if warning else []}

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.hub.repositories:
            raise Refused(409, "You already created this model repo")
        self.hub.repositories[repository] = Repository(private=asked["visibility"] == "private")
        return {"url": f"{self.hub.url}/{repository}", "name": repository, "id": "1"}

    def preupload(self, asked: dict[str, Any]) -> dict[str, Any]:
        def mode(file: dict[str, Any]) -> str:
            return "lfs" if file["path"].endswith(".safetensors") or file["size"] > 5_000_000 else "regular"

        return {"files": [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in asked["files"]]}

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for one in asked["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/upload/{one['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify"},
            }
            objects.append(one if one["oid"] in self.hub.objects else one | {"actions": actions})
        return {"transfer": "basic", "objects": objects}

    def upload(self, path: str, body: bytes) -> dict[str, Any]:
        oid = path.removeprefix("/upload/")
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "other bytes than announced")
        self.hub.objects[oid] = body
        return {}

    def commit(self, name: str, repository: Repository, branch: str, body: bytes) -> dict[str, Any]:
        if branch not in repository.branches:
            raise Refused(404, "Revision not found", "RevisionNotFound")
        files, header = dict(repository.branches[branch]), {}
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise Refused(400, f"nobody knows {key}")
        repository.branches[branch] = files
        repository.commits.append(header | {"branch": branch})
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{len(repository.commits)}", "commitOid": "1" * 40}


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
