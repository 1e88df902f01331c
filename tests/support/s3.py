"""A real S3 server process (moto) for tests, and the environment that leads to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import boto3
import pytest

from tests.chaos.s3_proxy import Proxy

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "secret-that-must-not-show-up-anywhere"
_AWS_VARIABLES_TO_DROP = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_CA_BUNDLE")
_SERVE = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
"""The server's program. It ends when its standard input closes, so it never outlives the tests, however they end."""


@dataclass(frozen=True)
class S3Server:
    """A running server: `endpoint` is its http:// address."""

    endpoint: str

    @cache  # noqa: B019 - one server, a handful of clients
    def client(self) -> Any:
        """Return a plain boto3 client of this server, past any proxy."""
        session = boto3.session.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)
        return session.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")


def environment(endpoint: str) -> dict[str, str]:
    """Return variables that point a process at `endpoint` and at nothing else of this machine's AWS set-up."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Point this process at `endpoint` for one test."""
    for name in _AWS_VARIABLES_TO_DROP:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)


@contextmanager
def running(variables: Mapping[str, str] | None = None) -> Iterator[S3Server]:
    """Run a server process with extra environment variables."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment(""), **(variables or {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server process of this test session."""
    with running() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a fresh bucket; this process's AWS environment leads to it."""
    use(monkeypatch, s3_server.endpoint)
    name = f"test-{uuid4().hex}"
    s3_server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_proxy(s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server that makes conditional writes atomic and can inject faults; this process uses it."""
    with Proxy(s3_server.endpoint) as proxy:
        use(monkeypatch, proxy.endpoint)
        yield proxy
