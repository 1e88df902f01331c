"""What stands before every route."""

from __future__ import annotations

import tempfile
from pathlib import Path

import httpx
import pytest

from jobs.serve.app import Limits
from tests.unit.serve.conftest import TOKEN, Server, serving
from tests.unit.serve.wire import connect, head, status, upload_head

HEADERS = {"authorization": f"Bearer {TOKEN}"}
ROUTES = [
    ("GET", "/v1/files"),
    ("GET", "/v1/files/file-1"),
    ("GET", "/v1/files/file-1/content"),
    ("DELETE", "/v1/files/file-1"),
    ("POST", "/v1/files"),
    ("GET", "/v1/batches"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches/batch_1"),
    ("POST", "/v1/batches/batch_1/cancel"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/demo"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_token_comes_before_the_body(server: Server, method: str, path: str) -> None:
    """Answered while not one byte of the body is there."""
    for token in ("wrong", ""):
        client = connect(
            server.url, head(f"{method} {path}", token=token, Content_Length="1000", Expect="100-continue")
        )
        assert status(client, 5) == 401, "and not 100"


def test_nothing_of_a_body_without_the_token_is_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spool(*_: object, **__: object) -> None:
        raise AssertionError("something was kept")

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", spool)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    client = connect(server.url, upload_head(20_000_000, token="wrong") + form)
    assert status(client, 5) == 401
    assert list(server.store.list()) == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_what_a_route_does_not_know_is_refused(server: Server, method: str, path: str) -> None:
    def ask(**options: object) -> dict[str, object]:
        found = httpx.request(method, f"{server.url}{path}", headers=HEADERS | options.pop("headers", {}), **options)  # type: ignore[arg-type, operator]
        assert found.status_code in (400, 415), found.text
        error: dict[str, object] = found.json()["error"]
        return error

    assert ask(params={"frobnicate": "1"})["param"] == "frobnicate"
    assert ask(params=[("limit", "1"), ("limit", "2")])["param"] == "limit"
    assert ask(headers={"content-encoding": "gzip"}, content=b"x")["param"] == "content-encoding"
    if method != "POST":
        assert ask(content=b"{}")["code"] == "unexpected_body"
    elif path != "/v1/files":
        assert ask(json={"frobnicate": 1})["param"] in ("frobnicate", "input_file_id")
    else:
        refused = ask(data={"purpose": "batch", "frobnicate": "1"}, files={"file": b"{}"})
        assert (refused["param"], refused["code"]) == ("frobnicate", "unknown_parameter")


def test_large_uploads_take_turns_and_too_many_are_sent_away(root: Path) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 300 * 2**10
    with serving(root, limits=Limits(uploads=2, waiting=3)) as server:
        half = [connect(server.url, upload_head(10**6) + part) for _ in range(10)]
        answers = []
        for client in half:
            try:
                answers.append(status(client, 1))
            except TimeoutError:
                answers.append(None)
        assert answers.count(429) == 5, "two are read and three wait"

        def upload(data: bytes) -> httpx.Response:
            form = {"files": {"file": data}, "data": {"purpose": "batch"}}
            return httpx.post(f"{server.url}/v1/files", headers=HEADERS, timeout=30, **form)  # type: ignore[arg-type]

        refused = upload(b"x" * 2**20)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert upload(b"{}").status_code == 200, "a small one needs no turn"
        for client in half:
            client.close()
        assert upload(b"x" * 2**20).status_code == 200
