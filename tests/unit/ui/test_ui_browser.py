"""The pages in a real browser: its console has nothing to say, nobody else is asked, and numbers move by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from jobs.ledger import Ledger
from jobs.store.local import LocalStore
from jobs.ui.app import make_app
from tests.support.nights import report
from tests.unit.report.test_report import CHROMIUM, browse_url
from tests.unit.ui.parsed_page import Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture
def before_updates() -> list[Callable[[], None]]:
    """What happens before each request of a page for newer numbers."""
    return []


@pytest.fixture
def address(site_of: Callable[..., Any], before_updates: list[Callable[[], None]]) -> Iterator[str]:
    """A server on a free port."""
    app = make_app(site_of(), local=True)

    async def observed(scope: Any, receive: Any, send: Any) -> None:
        if any(name == b"x-live" for name, _ in scope.get("headers", ())):
            for step in before_updates:
                step()
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(observed, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("path", ["/ui/", "/ui/jobs/claims-2026-11-29", "/ui/schedules/reviews"])
def test_a_browser_shows_a_page_without_a_complaint_and_asks_nobody_else(
    address: str, path: str, tmp_path: Path
) -> None:
    done, asked = browse_url(address + path, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert not [url for url in asked if "google" not in url and "gvt1" not in url and "127.0.0.1" not in url]
    assert not Page(done.stdout).broken


def test_numbers_of_a_job_at_work_move_while_the_page_is_open(
    address: str, before_updates: list[Callable[[], None]], nights_root: Path, tmp_path: Path
) -> None:
    ledger = Ledger(LocalStore(nights_root), "claims-2026-11-29")
    before_updates.append(lambda: report(ledger, rows=901))
    try:
        # The browser's clock runs ahead: its timers fire as soon as nothing else is under way.
        flags = ("--dump-dom", "--virtual-time-budget=20000")
        done, _ = browse_url(f"{address}/ui/jobs/claims-2026-11-29", tmp_path / "profile", *flags)
    finally:
        report(ledger, rows=640)
    assert "901 of 1,200 rows are done" in Page(done.stdout).text
