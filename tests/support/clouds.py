"""Servers that stand in for Google's and Azure's object stores, and the environment that leads to them.

Google's XML interface is that of S3, so the server of the tests on S3 speaks it. Azure's is Azurite, a program of npm
that is not among the tests' packages: `npm install azurite`, and its `node_modules/.bin` on PATH.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.s3 import S3Server

_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite: it is no secret."""


@dataclass(frozen=True)
class Cloud:
    """A fresh bucket: `root` is its address."""

    root: str
    server: S3Server | None = None

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        if self.server is not None:
            bucket = self.root.removeprefix("gs://")
            self.server.client().put_object(Bucket=bucket, Key=key, Body=data, ACL="public-read")
            return
        import obstore
        from obstore.store import from_url

        obstore.put(from_url(self.root), key, data)

    def delete(self, key: str) -> None:
        """Remove an object."""
        if self.server is not None:
            self.server.client().delete_object(Bucket=self.root.removeprefix("gs://"), Key=key)
            return
        import obstore
        from obstore.store import from_url

        obstore.delete(from_url(self.root), key)


def google_environment(server: S3Server) -> dict[str, str]:
    """The environment that leads to the server."""
    key = {"gcs_base_url": server.endpoint, "disable_oauth": True}
    key |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key)}


def azure_environment(endpoint: str) -> dict[str, str]:
    """The environment that leads to a running Azurite."""
    return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": endpoint}


def use_google(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> Cloud:
    """Point this process at the server for one test."""
    for name, value in google_environment(server).items():
        monkeypatch.setenv(name, value)
    name = f"test{uuid4().hex}"  # the library encodes a dash, which the server does not decode in a bucket's name
    server.client().create_bucket(Bucket=name)
    return Cloud(f"gs://{name}", server)


def use_azure(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> Cloud:
    """Point this process at a running Azurite for one test."""
    for name, value in azure_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid4().hex}"
    _make_container(endpoint, name)
    return Cloud(f"az://{name}")


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Run Azurite and yield its http:// address; skip the test if it is not installed."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not on PATH: npm install azurite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", str(folder)]
    process = subprocess.Popen(
        [program, *options, "--blobPort", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _make_container(endpoint: str, name: str) -> None:
    headers = {
        "Content-Type": "application/octet-stream",
        "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "x-ms-version": "2021-08-06",
    }
    named = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers) if key.startswith("x-ms-"))
    resource = f"/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
    text = "\n".join(["PUT", "", "", "", "", headers["Content-Type"], *[""] * 6]) + f"\n{named}{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(_KEY), text.encode(), hashlib.sha256)).decode()
    request: Any = urllib.request.Request(
        f"{endpoint}/{_ACCOUNT}/{name}?restype=container",
        data=b"",
        method="PUT",
        headers={**headers, "Authorization": f"SharedKey {_ACCOUNT}:{signature}"},
    )
    urllib.request.urlopen(request, timeout=30).close()
