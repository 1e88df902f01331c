"""The OpenAPI document is valid, and what the server answers to anything conforms to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.unit.serve.conftest import TOKEN, serving

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")

pytestmark = pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="needs the package schemathesis")


@pytest.mark.parametrize(
    "examples", [pytest.param(10, id="short"), pytest.param(400, id="long", marks=pytest.mark.nightly)]
)
@pytest.mark.timeout(900)
def test_no_request_brings_the_server_down(root: Path, tmp_path: Path, examples: int) -> None:
    with serving(root) as server:
        done = subprocess.run(
            [
                *(str(SCHEMATHESIS), "run", f"{server.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"),
                # Whether an id is one of a file and whether a file has lines, no schema can say.
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *("--max-examples", str(examples), "--seed", "7", "--no-color"),
            ],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Tested: 13" in done.stdout, "every operation"
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_the_document_names_every_route(root: Path) -> None:
    with serving(root) as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["openapi"].startswith("3.")
    found = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert found == {
        ("/healthz", "get"),
        ("/metrics", "get"),
        ("/v1/files", "get"),
        ("/v1/files", "post"),
        ("/v1/files/{file_id}", "get"),
        ("/v1/files/{file_id}", "delete"),
        ("/v1/files/{file_id}/content", "get"),
        ("/v1/batches", "get"),
        ("/v1/batches", "post"),
        ("/v1/batches/{batch_id}", "get"),
        ("/v1/batches/{batch_id}/cancel", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{model_id}", "get"),
    }
    assert all("422" not in each["responses"] for methods in document["paths"].values() for each in methods.values())
