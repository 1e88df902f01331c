"""Without a token, no page in a browser reaches the server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.unit.serve.conftest import serving
from tests.unit.serve.wire import connect, status

PATHS = [
    ("GET", "/v1/files"),
    ("POST", "/v1/batches/batch_1/cancel"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"host": "LOCALHOST:99"}, None),
        ({"host": "[::1]:8340"}, None),
        ({"host": "127.8.9.1"}, None),
        ({"host": "evil.example"}, "forbidden_host"),
        ({"host": "localhost.evil.example"}, "forbidden_host"),
        ({"host": "127.0.0.1.nip.io"}, "forbidden_host"),
        ({"host": "127.0.0.1@evil.example"}, "forbidden_host"),
        ({"host": "10.0.0.1"}, "forbidden_host"),
        ({"host": "["}, "forbidden_host"),
        ({"host": ""}, "forbidden_host"),
        ({"origin": "http://evil.example"}, "forbidden_origin"),
        ({"origin": "null"}, "forbidden_origin"),
        ({"origin": "http://localhost:3000"}, "forbidden_origin"),
        ({"origin": "http://["}, "forbidden_origin"),
        ({"sec-fetch-site": "cross-site"}, "forbidden_origin"),
        ({"sec-fetch-site": "same-site"}, "forbidden_origin"),
        ({"sec-fetch-site": "same-origin"}, None),
    ],
)
def test_host_and_origin(root: Path, headers: dict[str, str], code: str | None) -> None:
    with serving(root, token=None) as server:
        for method, path in PATHS:
            found = httpx.request(method, f"{server.url}{path}", headers=headers)
            if code is None:
                assert found.status_code in (200, 404)
            else:
                assert (found.status_code, found.json()["error"]["code"]) == (403, code)


def test_a_page_of_the_server_itself_is_let_in(root: Path) -> None:
    with serving(root, token=None) as server:
        assert httpx.get(f"{server.url}/v1/files", headers={"origin": server.url}).status_code == 200
        assert status(connect(server.url, b"GET /v1/files HTTP/1.0\r\n\r\n")) == 403, "no host at all"


def test_with_a_token_any_name_will_do(root: Path) -> None:
    with serving(root) as server:
        assert httpx.get(f"{server.url}/healthz", headers={"host": "batch.example"}).status_code == 200
