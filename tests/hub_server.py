"""A server on the loopback that speaks the Hugging Face hub's protocol: listing, redirect, range requests."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECONDS = 60
"""After which the server ends by itself."""


@dataclass
class Hub:
    """What a server holds and what it was asked.

    Attributes:
        files: Content by path.
        cut: Paths whose first download breaks off in the middle.
        asked: (method, path, range) of each request.
    """

    url: str = ""
    cdn: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def downloads(self) -> list[tuple[str, str]]:
        """(file, range) of each download."""
        return [
            (path.removeprefix("/cdn/"), part) for how, path, part in self.asked if how == "GET" and "/cdn/" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    dataset: str
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range") or ""))
        tree, resolve = f"/api/datasets/{self.dataset}/tree/main", f"/datasets/{self.dataset}/resolve/main/"
        if path.startswith(tree):
            self._send(200, json.dumps(_listing(self.hub.files)).encode(), {"Content-Type": "application/json"})
        elif path.startswith(resolve) and path.removeprefix(resolve) in self.hub.files:
            name = path.removeprefix(resolve)
            digest = hashlib.sha256(self.hub.files[name]).hexdigest()
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(self.hub.files[name]))}
            self._send(302, b"", {"Location": f"{self.hub.cdn}/cdn/{name}", "X-Repo-Commit": COMMIT, **linked})
        elif path.startswith("/cdn/") and path.removeprefix("/cdn/") in self.hub.files:
            self._download(path.removeprefix("/cdn/"))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _download(self, name: str) -> None:
        content, asked = self.hub.files[name], self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        part = content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.cut:
            self.hub.cut.discard(name)
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            self.connection.shutdown(2)
        else:
            self.wfile.write(part)

    def _send(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def hub_server(dataset: str, files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serves a data set on a free port of the loopback, for at most ``SECONDS``."""
    # As the real one, it redirects to another host; a host with another port is another one.
    hub = Hub(files=dict(files))
    handler = type("Handler", (_Handler,), {"hub": hub, "dataset": dataset})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    endings = [threading.Timer(SECONDS, server.shutdown) for server in servers]
    for thread in (*threads, *endings):
        thread.daemon = True
        thread.start()
    try:
        yield hub
    finally:
        for ending, server in zip(endings, servers, strict=True):
            ending.cancel()
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join(5)


def _listing(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    return [{"type": "directory", "path": "encrypted_transcripts", "oid": COMMIT, "size": 0}] + [
        {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": COMMIT,
            "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134},
        }
        for name, content in files.items()
    ]
