"""Hugging Face hub on the loopback interface, with the part of its protocol that downloads and streams need.

Use it from any test::

    from hub_server import HubServer

    with HubServer() as hub:
        hub.add("models", "me/tiny", {"config.json": b"{}"})
        environment = hub.environment(tmp_path)     # for a subprocess: libraries read HF_* when imported
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NO_SOCKETS = """
import socket
def refuse(*a, **k):
    print("a socket was opened", flush=True); raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""
"""Prefix for the code of a subprocess: opening a socket is an error."""
QUICK = "import time; slept = []; time.sleep = slept.append\n"
"""Prefix for the code of a subprocess: ``time.sleep`` returns at once and appends its argument to ``slept``."""

LFS = (".safetensors", ".gz", ".zst", ".parquet")


@dataclass
class Repo:
    """Repository with its files at a single commit.

    Attributes:
        gated: Requests for files fail with 401 without a token, and with 403 with a token.
        private: Requests without a token fail with 401.
    """

    kind: str
    name: str
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    branches: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        text = repr(sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items()))
        return hashlib.sha1(text.encode()).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
        if path.endswith(LFS):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
        return entry


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    status: int = 0


@dataclass
class HubServer:
    """The server. Start it with ``with``; ``requests`` holds the requests that it received.

    Attributes:
        failing: Status with which requests fail, by a part of their path.
        truncated_downloads: Number of bytes after which a file's first download ends, by path in the repository.
        damaged: Content that is sent in place of a file's own, of the same size, by path in the repository.
        pages: Status and HTML that answer every request whose path contains a part, as a login page does.
        silent: Parts of paths whose GET requests get no answer.
        trickling: Parts of paths whose content is sent one byte at a time, with pauses.
    """

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)
    truncated_downloads: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, bytes] = field(default_factory=dict)
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    trickling: set[str] = field(default_factory=set)
    closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> HubServer:
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, kind: str, name: str, files: dict[str, bytes], **options: Any) -> Repo:
        """Add a repository; ``kind`` is models or datasets."""
        self.repos[kind, name] = Repo(kind, name, files, **options)
        return self.repos[kind, name]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a process that uses this hub, with its own caches below ``home``."""
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "METALM_", "TRANSFORMERS_"))
        }
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        return {**inherited, **ours, **quiet, **more}

    def run(self, code: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process that uses this hub."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment(home, **more),
            cwd=home,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )


class Handler(BaseHTTPRequestHandler):
    """Handler of the routes ``/api/<kind>/<name>[/revision|tree|paths-info/…]`` and ``…/resolve/<revision>/<path>``."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path = unquote(split.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization")
        self.request_seen = Request(self.command, path, self.headers.get("Range"), token)
        self.hub.requests.append(self.request_seen)
        if self.command == "GET" and any(part in path for part in self.hub.silent):
            self.hub.closed.wait(60)
            return None
        for part, (status, page) in self.hub.pages.items():
            if part in path:
                return self._send(status, page, {"Content-Type": "text/html"})
        for part, status in self.hub.failing.items():
            if part in path:
                return self._send(status, b"failing on purpose")
        if path.startswith("/api/"):
            kind, subpath = path[len("/api/") :].split("/", 1)
            return self._api(kind, subpath, body) if kind in ("models", "datasets") else self._send(404, b"")
        kind, subpath = ("datasets", path[10:]) if path.startswith("/datasets/") else ("models", path[1:])
        return self._resolve(kind, subpath)

    def _find(self, kind: str, subpath: str) -> tuple[Repo | None, str]:
        """Return the repository that a path begins with, and the rest of the path."""
        for parts in (2, 1):
            name = "/".join(subpath.split("/")[:parts])
            repo = self.hub.repos.get((kind, name))
            if repo is not None and not (repo.private and self.request_seen.token is None):
                return repo, subpath[len(name) + 1 :]
        self._send(401 if self.request_seen.token is None else 404, b"", {"X-Error-Code": "RepoNotFound"})
        return None, ""

    def _has(self, repo: Repo, revision: str) -> bool:
        if revision == repo.commit or revision in repo.branches:
            return True
        self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return False

    def _api(self, kind: str, subpath: str, body: bytes) -> None:
        repo, subpath = self._find(kind, subpath)
        if repo is None:
            return
        route, _, subpath = subpath.partition("/")
        revision, _, folder = subpath.partition("/")
        if not self._has(repo, revision or "main"):
            return
        if route in ("", "revision"):
            siblings = [{"rfilename": path} for path in repo.files]
            about = {"id": repo.name, "sha": repo.commit, "private": repo.private, "tags": [], "siblings": siblings}
            self._json({**about, "_id": "0", "gated": "manual" if repo.gated else False, "downloads": 0, "likes": 0})
        elif route == "tree":
            self._json(self._tree(repo, folder, "recursive=True" in self.path or "recursive=true" in self.path))
        elif route == "paths-info":
            paths = parse_qs(body.decode())["paths"]
            folders = {path.rsplit("/", 1)[0] for path in repo.files if "/" in path}
            entries = [repo.entry(path) for path in paths if path in repo.files]
            entries += [
                {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
                for folder in paths
                if folder in folders
            ]
            self._json(entries)
        else:
            self._send(404, b"")

    def _tree(self, repo: Repo, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path in repo.files:
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = repo.entry(path)
        return list(entries.values())

    def _resolve(self, kind: str, subpath: str) -> None:
        repo, subpath = self._find(kind, subpath)
        if repo is None:
            return None
        _, revision, path = ([*subpath.split("/", 2), "", ""])[:3]
        if not self._has(repo, revision):
            return None
        commit = {"X-Repo-Commit": repo.commit}
        if path not in repo.files:
            return self._send(404, b"", {**commit, "X-Error-Code": "EntryNotFound"})
        if repo.gated:
            status = 401 if self.request_seen.token is None else 403
            return self._send(status, b"", {**commit, "X-Error-Code": "GatedRepo"})
        return self._file(path, repo.files[path], commit)

    def _file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        etag = hashlib.sha256(data).hexdigest() if path.endswith(LFS) else git_hash(data)
        headers = {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        data = self.hub.damaged.get(path, data)
        status, size = 200, len(data)
        if self.headers.get("Range"):
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else size, size)
            if start >= size:
                return self._send(416, b"", {"Content-Range": f"bytes */{size}"})
            status, data = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        elif self.command == "GET" and path in self.hub.truncated_downloads:
            return self._send(status, data, headers, max_bytes=self.hub.truncated_downloads.pop(path))
        return self._send(status, data, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, max_bytes: int | None = None
    ) -> None:
        self.request_seen.status = status
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET" and any(part in self.request_seen.path for part in self.hub.trickling):
            for index in range(len(data)):
                if self.hub.closed.wait(0.1):
                    break
                self.wfile.write(data[index : index + 1])
        elif self.command != "HEAD":
            self.wfile.write(data if max_bytes is None else data[:max_bytes])
        if max_bytes is not None:
            self.wfile.flush()
            self.close_connection = True
