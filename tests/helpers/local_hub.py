"""A local HTTP server that stands in for the Hugging Face hub and handles downloads and uploads.

It is modelled on the requests that `huggingface_hub` sends and on the Git LFS batch API specification.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

WRITE, READ = "hf_write", "hf_read"  # valid tokens
NOWHERE = "http://127.0.0.1:9"  # no server listens on this port
LICENSES = ("apache-2.0", "mit", "other")  # a subset of the licenses that the hub accepts


@dataclasses.dataclass
class Stored:
    """A repository; the last commit is the newest."""

    commits: dict[str, dict[str, bytes]]  # files by commit
    private: bool = False
    large: set[str] = dataclasses.field(default_factory=set)  # files uploaded through LFS

    @property
    def newest(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.newest]


class LocalHub(ThreadingHTTPServer):
    """The server. `repositories` are stored by `USER/NAME`; `asked` lists each request's method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Stored] = {}
        self.asked: list[str] = []
        self.objects: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}  # canned responses by substring of method and path
        self.halved: set[str] = set()  # models whose large files are cut off halfway

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes], private: bool = False, commit: str = "") -> str:
        """Commits files that replace all files of a repository, and returns the commit."""
        stored = self.repositories.setdefault(name, Stored({}, private))
        commit = commit or hashlib.sha1(f"{name} {len(stored.commits)}".encode()).hexdigest()
        stored.commits[commit] = files
        return commit


class Handler(BaseHTTPRequestHandler):
    """Handles the requests that clients send to the hub."""

    server: LocalHub

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", half: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)

    def json(self, values: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(values).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.answer(status, **{"X_Error_Code": code} if code else {}, **{"X_Error_Message": message} if message else {})

    def do_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        for part, (status, headers) in self.server.answers.items():
            if part in f"{self.command} {path}":
                return self.answer(status, **headers)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", WRITE, READ):
            return self.refuse(401, message="Invalid credentials in Authorization header")
        self.token = token
        parts = path.strip("/").split("/")
        match self.command, parts:
            case "POST", ["api", "repos", "create"]:
                return self.create()
            case "POST", ["api", "validate-yaml"]:
                return self.validate()
            case "PUT", ["lfs", oid]:
                assert hashlib.sha256(self.body).hexdigest() == oid
                self.server.objects[oid] = self.body
                return self.answer(200)
        parts = parts[2:] if parts[0] == "api" else parts
        if len(parts) < 2:
            return self.refuse(404)
        owner, name, *rest = parts
        name = name.removesuffix(".git")
        stored = self.server.repositories.get(f"{owner}/{name}")
        if stored is None or (stored.private and not token):
            return self.refuse(404 if token else 401, "RepoNotFound")
        if self.command == "POST" and token != WRITE:
            return self.refuse(403, message=f"you cannot write to {owner}/{name}")
        match rest:
            case [] | ["revision", _] | ["tree", *_] | ["resolve", *_]:
                return self.show(f"{owner}/{name}", stored, *rest)
            case ["preupload", "main"]:
                return self.json({"files": [self.mode(stored, file) for file in self.values()["files"]]})
            case ["info", "lfs", "objects", "batch"]:
                return self.batch()
            case ["commit", "main"]:
                return self.commit(f"{owner}/{name}", stored)
        self.refuse(404)

    do_GET = do_HEAD = do_POST = do_PUT = do_any

    def values(self) -> Any:
        return json.loads(self.body)

    def show(self, model: str, stored: Stored, what: str = "", revision: str = "main", *path: str) -> None:
        commit = stored.newest if revision == "main" else revision
        if commit not in stored.commits:
            return self.refuse(404, "RevisionNotFound")
        files = stored.commits[commit]
        if what == "tree":
            return self.json(
                [{"type": "file", "oid": f"{i:040}", "size": len(files[f]), "path": f} for i, f in enumerate(files)]
            )
        if what == "resolve":
            body = files.get("/".join(path))
            if body is None:
                return self.refuse(404, "EntryNotFound")
            half = model in self.server.halved and len(body) > 5000
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            return self.answer(200, body, half, X_Repo_Commit=commit, ETag=etag)
        siblings = [{"rfilename": file} for file in files]
        self.json(
            {"id": model, "sha": commit, "private": stored.private, "siblings": siblings, "tags": [], "downloads": 0}
        )

    def create(self) -> None:
        values = self.values()
        name = f"{values['organization']}/{values['name']}"
        if self.token != WRITE:
            return self.refuse(403, message="you don't have the rights to create a model under this namespace")
        if name in self.server.repositories:
            return self.refuse(409, message="you already created this model repo")
        self.server.add(name, {".gitattributes": b""}, values.get("visibility") == "private")
        self.json({"url": f"{self.server.address}/{name}"})

    def validate(self) -> None:
        header = yaml.safe_load(self.values()["content"].split("---\n")[1])
        if header.get("license", "mit") not in LICENSES:
            why = f'"license" must be one of [{", ".join(LICENSES)}]'
            if self.headers.get("Accept") == "text/plain":
                return self.answer(400, why.encode())
            return self.json({"errors": [{"message": why}]}, 400)
        assert header["pipeline_tag"] in ("object-detection", "image-classification")
        self.json({"errors": [], "warnings": []})

    def mode(self, stored: Stored, file: dict) -> dict:
        """How the client uploads a file: weights and images through LFS. It skips files whose `oid` is unchanged."""
        large = file["path"].endswith((".safetensors", ".png", ".jpg"))
        there = stored.commits[stored.newest].get(file["path"])
        oid = None
        if there is not None:
            oid = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            oid = hashlib.sha256(there).hexdigest() if large else oid
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def batch(self) -> None:
        found = []
        for each in self.values()["objects"]:
            action = {"upload": {"href": f"{self.server.address}/lfs/{each['oid']}"}}
            found.append(each | ({} if each["oid"] in self.server.objects else {"actions": action}))
        self.json({"transfer": "basic", "objects": found})

    def commit(self, model: str, stored: Stored) -> None:
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        parent = header["value"].get("parentCommit")
        if parent not in (None, stored.newest):
            return self.refuse(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(stored.commits[stored.newest])
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
                    stored.large.add(value["path"])
                case "deletedFile":
                    del files[value["path"]]
        commit = self.server.add(model, files)
        self.json({"commitUrl": f"{self.server.address}/{model}/commit/{commit}", "commitOid": commit, "success": True})


@contextlib.contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Runs a hub that has no repositories yet."""
    server = LocalHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the constants that `huggingface_hub` sets from HF_ENDPOINT, HF_HUB_CACHE and so on at import."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "*")
