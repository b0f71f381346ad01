"""Loopback hub with the part of the protocol that uploads need: new repositories, LFS objects, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_server import LFS, Handler, HubServer, Repo, Request


class UploadServer(HubServer):
    """Hub that accepts uploads in requests with a token."""

    def __enter__(self) -> UploadServer:
        self.objects: dict[str, bytes] = {}
        handler = type("BoundHandler", (UploadHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def files(self, name: str) -> dict[str, bytes]:
        """Files of a model repository."""
        return self.repos["models", name].files


class UploadHandler(Handler):
    """Handler that adds ``/api/repos/create``, ``…/preupload/…``, ``….git/info/lfs/objects/batch``, ``…/commit/…``."""

    hub: UploadServer

    def do_PUT(self) -> None:
        path = unquote(urlsplit(self.path).path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._seen(path)
        oid = path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            return self._send(400, b"another content")
        self.hub.objects[oid] = data
        return self._send(200, b"")

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for part, answer in (
            ("/api/repos/create", self._create),
            ("/api/validate-yaml", lambda path, body: self._json({"errors": [], "warnings": []})),
            ("/preupload/", self._preupload),
            (".git/info/lfs/objects/batch", self._batch),
            ("/commit/", self._commit),
        ):
            if part in path:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._seen(path)
                for failing, status in self.hub.failing.items():
                    if failing in path:
                        return self._send(status, b"failing on purpose")
                if self.headers.get("Authorization") is None:
                    return self._send(401, b"")
                return answer(path, body)
        return super().do_POST()

    def _seen(self, path: str) -> None:
        self.request_seen = Request(self.command, path, None, self.headers.get("Authorization"))
        self.hub.requests.append(self.request_seen)

    def _create(self, path: str, body: bytes) -> None:
        request = json.loads(body)
        name = f"{request['organization']}/{request['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if ("models", name) in self.hub.repos:
            return self._send(409, json.dumps(url).encode(), {"Content-Type": "application/json"})
        private = request.get("private") or request.get("visibility") == "private"
        self.hub.add("models", name, {".gitattributes": b""}, private=bool(private))
        return self._json(url)

    def _preupload(self, path: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        modes = [("lfs" if file["path"].endswith(LFS) else "regular", file["path"]) for file in files]
        self._json({"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for mode, name in modes]})

    def _batch(self, path: str, body: bytes) -> None:
        objects = [
            {**file, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{file['oid']}"}}}
            for file in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, path: str, body: bytes) -> None:
        repo: Repo = self.hub.repos["models", path.removeprefix("/api/models/").partition("/commit/")[0]]
        for line in body.splitlines():
            entry: dict[str, Any] = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
        self._json({"commitOid": repo.commit, "commitUrl": f"{self.hub.url}/{repo.name}/commit/{repo.commit}"})
