"""A REST catalog over a catalog in a file of SQLite: the few endpoints that pyiceberg asks for, on its own models.

It can be told to lose its answers: a commit is made, and the answer is 504.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "token-that-must-not-show-up-anywhere"


_OPTIONAL = dict.fromkeys(("location", "partition-spec", "write-order"))
"""What a request leaves out, and pyiceberg's own model of it asks for."""


@dataclass
class RestCatalog:
    """A running server.

    Attributes:
        lost_answers: so many of the next commits are made, and answered with 504.
        refusals: so many of the next commits are answered with 503, and not made.
        commits: commits that were asked for.
    """

    uri: str
    catalog: Any
    lost_answers: int = 0
    refusals: int = 0
    commits: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(folder: Path, warehouse: str | None = None, **properties: str) -> Iterator[RestCatalog]:
    """Run a REST catalog whose tables lie in a folder, or at another address."""
    from pyiceberg.catalog.sql import SqlCatalog

    folder.mkdir(parents=True, exist_ok=True)
    catalog = SqlCatalog(
        "server", uri=f"sqlite:///{folder}/rest.db", warehouse=warehouse or f"file://{folder}/warehouse", **properties
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    state = RestCatalog(f"http://127.0.0.1:{server.server_address[1]}", catalog)
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_HEAD = do_GET  # noqa: N815 - the server's own names

    def _answer(self) -> None:
        from pyiceberg import exceptions

        state: RestCatalog = self.server.state  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[2:]]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, _error(401, "NotAuthorizedException", "no token"))
        try:
            with state.lock:
                return self._send(*_do(state, self.command, parts, body))
        except (exceptions.NoSuchTableError, exceptions.NoSuchNamespaceError) as error:
            return self._send(404, _error(404, type(error).__name__, str(error)))
        except (exceptions.CommitFailedException, exceptions.TableAlreadyExistsError) as error:
            return self._send(409, _error(409, type(error).__name__, str(error)))

    def _send(self, status: int, document: Any) -> None:
        data = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _do(state: RestCatalog, method: str, parts: list[str], body: bytes) -> tuple[int, Any]:
    from pyiceberg.catalog.rest import CommitTableRequest, CreateTableRequest
    from pyiceberg.table.metadata import new_table_metadata
    from pyiceberg.table.sorting import UNSORTED_SORT_ORDER

    catalog = state.catalog
    match method, parts:
        case "GET", ["config"]:
            return 200, {"defaults": {}, "overrides": {}}
        case "POST", ["namespaces"]:
            catalog.create_namespace_if_not_exists(tuple(json.loads(body)["namespace"]))
            return 200, {"namespace": json.loads(body)["namespace"], "properties": {}}
        case (("GET" | "HEAD"), ["namespaces", name]):
            catalog.load_namespace_properties(name)
            return (200 if method == "GET" else 204), {"namespace": [name], "properties": {}}
        case "POST", ["namespaces", name, "tables"]:
            asked = CreateTableRequest.model_validate(_OPTIONAL | json.loads(body))
            if catalog.table_exists((name, asked.name)):
                return 409, _error(409, "AlreadyExistsException", "it exists")
            location = asked.location or catalog._resolve_table_location(None, name, asked.name)
            if asked.stage_create:
                metadata = new_table_metadata(
                    asked.table_schema,
                    asked.partition_spec,
                    asked.write_order or UNSORTED_SORT_ORDER,
                    location,
                    asked.properties,
                )
                return 200, {"metadata": json.loads(metadata.model_dump_json()), "config": {}}
            made = catalog.create_table((name, asked.name), asked.table_schema, location, properties=asked.properties)
            return 200, _table(made)
        case (("GET" | "HEAD"), ["namespaces", name, "tables", table]):
            return 200, _table(catalog.load_table((name, table)))
        case "POST", ["namespaces", name, "tables", table]:
            state.commits += 1
            if state.refusals:
                state.refusals -= 1
                return 503, _error(503, "ServiceUnavailable", "later")
            asked_for = CommitTableRequest.model_validate_json(body)
            there = SimpleNamespace(name=lambda: (name, table), catalog=catalog, io=None)
            done = catalog.commit_table(there, asked_for.requirements, asked_for.updates)
            if state.lost_answers:
                state.lost_answers -= 1
                return 504, _error(504, "GatewayTimeout", "the answer was lost")
            return 200, {
                "metadata": json.loads(done.metadata.model_dump_json()),
                "metadata-location": done.metadata_location,
            }
    return 404, _error(404, "NotFound", f"{method} {parts}")


def _table(table: Any) -> dict[str, Any]:
    return {
        "metadata": json.loads(table.metadata.model_dump_json()),
        "metadata-location": table.metadata_location,
        "config": {},
    }


def _error(code: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code}}
