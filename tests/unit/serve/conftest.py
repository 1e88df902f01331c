"""A server in a thread of this process, over a local root; no cluster."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from jobs.monitoring.exporter import Exporter
from jobs.serve.app import Limits, Service, make_app
from jobs.serve.connections import BoundedServer
from jobs.serve.runner import BatchRunner
from jobs.settings import Settings
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas.spec import InputSpec, JobSpec, ModelSpec

TOKEN = "nb-a-token-of-the-tests"
BASE = JobSpec.model_validate(
    {
        "name": "base",
        "input": InputSpec(uri="/unused"),
        "model": ModelSpec(path="builtin:bytes"),
        "engine": {"name": "fake"},
    }
)


@dataclass(frozen=True)
class Server:
    """Where it is and what is behind it."""

    url: str
    store: ObjectStore
    runner: BatchRunner

    def client(self, token: str = TOKEN) -> OpenAI:
        """OpenAI's own client."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0, timeout=20)


@contextmanager
def serving(
    root: Path, *, token: str | None = TOKEN, limits: Limits | None = None, connections: int | None = None
) -> Iterator[Server]:
    """A server that answers."""
    settings = Settings(root=str(root))
    store, runner = open_store(settings.root), BatchRunner(settings, BASE, "demo")
    service = Service(
        store=store, runner=runner, model="demo", token=token, limits=limits or Limits(), exporter=Exporter(settings)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = BoundedServer(make_app(service), most=connections)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started:
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.02)
            yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", store, runner)
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs live; no cluster is known."""
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    """A server that needs the token."""
    with serving(root) as found:
        yield found
