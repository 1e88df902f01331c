"""A server that speaks the few endpoints of Hugging Face's hub that reading a data set needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_token-that-must-not-show-up"


@dataclass
class Hub:
    """A running hub with one data set, `org/name`.

    Attributes:
        commits: files of each commit, the newest last.
        ranges: whether it sends parts of files, and not always all.
        gated: whether only the token opens it, and terms must be accepted first.
    """

    endpoint: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    ranges: bool = True
    gated: bool = False
    requests: list[str] = field(default_factory=list)

    def commit(self, **files: bytes) -> str:
        """Add a commit with these files; returns its hash."""
        named = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[named] = files
        return named


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Accept its terms."})
        for start, answer in (
            ("/api/datasets/org/name/revision/", self._info),
            ("/api/datasets/org/name/tree/", self._tree),
            ("/api/datasets/org/name/paths-info/", self._paths),
            ("/datasets/org/name/resolve/", self._file),
        ):
            if path.startswith(start):
                return answer(hub, path.removeprefix(start), body)
        if path == "/api/datasets/org/name":
            return self._info(hub, "main", body)
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_POST = do_HEAD = do_GET  # noqa: N815 - the server's own names

    def _info(self, hub: Hub, revision: str, _: str) -> None:
        commit = [*hub.commits][-1] if revision == "main" else revision
        if commit not in hub.commits:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return self._json({"id": "org/name", "sha": commit, "siblings": []})

    def _tree(self, hub: Hub, rest: str, _: str) -> None:
        commit, _, folder = rest.partition("/")
        files, start = hub.commits[commit], f"{folder}/" if folder else ""
        inside = {name: data for name, data in files.items() if name.startswith(start)}
        if not inside:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        folders = {start + name.removeprefix(start).partition("/")[0] for name in inside if "/" in name[len(start) :]}
        shown = [_entry(name, data) for name, data in inside.items() if deep or "/" not in name[len(start) :]]
        return self._json(shown + [{"type": "directory", "path": name, "oid": "0", "size": 0} for name in folders])

    def _paths(self, hub: Hub, commit: str, body: str) -> None:
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        return self._json([_entry(name, data) for name, data in hub.commits[commit].items() if name in asked])

    def _file(self, hub: Hub, rest: str, _: str) -> None:
        commit, _, name = rest.partition("/")
        if (data := hub.commits.get(commit, {}).get(name)) is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if not hub.ranges:
            return self._send(200, data, {})
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        return self._send(206, data[int(first) : int(last) + 1], {})

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
