"""A month of nights, and browsers without a window: clients that keep cookies and send what a browser sends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.settings import Settings
from jobs.ui.app import make_app
from jobs.ui.site import Site
from tests.support.nights import month

NOW = datetime(2026, 11, 29, 6, tzinfo=UTC)
TOKEN = "nb-a-token-that-is-long-enough"


@pytest.fixture(scope="session")
def nights_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The month, written once; tests that change something copy it."""
    root = tmp_path_factory.mktemp("nights") / "root"
    month(root, NOW)
    return root


@pytest.fixture
def site_of(nights_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    """Build a site at seven in the morning, Berlin."""
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))

    def build(root: Path = nights_root, **changes: Any) -> Site:
        settings = Settings(root=str(root), gpu_hour_price=2.5)
        return Site(**{"settings": settings, "token": None, "now": lambda: NOW, **changes})

    return build


@pytest.fixture
def browse(site_of: Callable[..., Site]) -> Callable[..., TestClient]:
    """Open a browser on a new site."""

    def start(local: bool = True, **changes: Any) -> TestClient:
        app = make_app(site_of(**changes), local=local)
        return TestClient(app, base_url="http://127.0.0.1:8341", follow_redirects=False)

    return start
