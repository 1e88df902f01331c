"""How a job looks and how it is waited for in Python: texts, HTML, progress, errors."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jobs
from jobs import BatchClient, GateFailed, JobFailed
from jobs.errors import Exit, UsageError
from jobs.job import Job
from jobs.ledger import Ledger
from jobs.store import open_store
from schemas.codes import JobError, State
from schemas.records import Cancelled, Failed, Interruption
from tests.unit.results.ledgers import make_job, spec_of, succeed

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    return BatchClient(root=tmp_path / "root")


def _job(client: BatchClient, kind: str) -> Job:
    """Make a job that has ended, or is interrupted, in one of the ways there are."""
    store = open_store(client.store.uri)
    if kind in ("good", "gate"):
        succeed(make_job(store, [[0, 1, 2] if kind == "good" else [2, 3]]))
    else:
        ledger = make_job(store, [[0, 1], [2]], commit=[0])
        if kind == "failed":
            ledger.end(Failed(code=JobError.ENGINE_DIED, reason=f"It died. {HOSTILE}"), writer="test")
        elif kind == "cancelled":
            ledger.end(Cancelled(by="ada"), writer="test")
        else:
            ledger.interrupt(
                Interruption(driver="demo", code="DAMAGED", reason="A file is damaged.", hint="Mend it.", at="now")
            )
    return client.job("demo")


class _Tags(HTMLParser):
    """Checks that tags are balanced, and keeps their names and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("kind", "error", "code", "state", "words"),
    [
        ("gate", GateFailed, Exit.GATE_CROSSED, None, "has not passed its quality gates: 1 of 2 rows are errors"),
        ("failed", JobFailed, Exit.JOB_FAILED, State.FAILED, "has failed. ENGINE_DIED: It died."),
        ("cancelled", JobFailed, Exit.JOB_FAILED, State.CANCELLED, "was cancelled by ada"),
        ("interrupted", JobFailed, Exit.JOB_FAILED, State.INTERRUPTED, "was interrupted. A file is damaged. Mend it."),
    ],
)
def test_waiting_raises_unless_told_not_to(
    client: BatchClient, kind: str, error: type[JobFailed | GateFailed], code: Exit, state: State | None, words: str
) -> None:
    job = _job(client, kind)
    with pytest.raises(error, match="Job demo") as caught:
        job.wait(timeout_s=30)
    assert words in str(caught.value)
    assert caught.value.exit_code == code
    assert state is None or caught.value.status.state == state
    assert job.wait(timeout_s=30, raise_on_failure=False).state == caught.value.status.state
    with pytest.raises(error):
        asyncio.run(job.wait_async(timeout_s=30))


def test_waiting_for_a_good_job(client: BatchClient, capfd: pytest.CaptureFixture[str]) -> None:
    job = _job(client, "good")
    assert job.wait().state is State.SUCCEEDED
    assert asyncio.run(job.wait_async()).state is State.SUCCEEDED
    assert capfd.readouterr() == ("", ""), "neither a terminal nor a notebook"


def test_a_task_that_waits_can_be_cancelled(client: BatchClient) -> None:
    Ledger(client.store, "queued").create(spec_of(), writer="test")
    job, began = client.job("queued"), time.monotonic()

    async def give_up() -> None:
        await asyncio.wait_for(job.wait_async(poll_s=200), 1.0)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    with pytest.raises(TimeoutError, match="queued is QUEUED after 0 s"):
        asyncio.run(job.wait_async(timeout_s=0))
    assert time.monotonic() - began < 100, "no thread goes on"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_on_stderr(client: BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job, terminal = _job(client, "good"), _Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    job.wait(progress=False)
    assert terminal.getvalue() == ""
    job.wait()
    assert "3 of 3" in terminal.getvalue()


def test_a_notebook_shows_one_output_that_is_replaced(client: BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job, shown = _job(client, "good"), list[Any]()

    def display(picture: Any, *, display_id: bool) -> Any:
        assert display_id
        shown.append(picture)
        return SimpleNamespace(update=shown.append)

    notebook = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=object()), display=SimpleNamespace(display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    job.wait(progress=False)
    assert not shown
    job.wait()
    assert "3 of 3" in _Tags(shown[-2]._repr_html_()).text
    assert "SUCCEEDED" in repr(shown[-2])
    assert (shown[-1]._repr_html_(), repr(shown[-1])) == ("", ""), "the value that is returned shows the end"


@pytest.mark.parametrize("kind", ["good", "gate", "failed", "cancelled", "interrupted"])
def test_what_a_prompt_and_a_notebook_show(client: BatchClient, kind: str) -> None:
    job = _job(client, kind)
    assert repr(job) == f"<Job demo at {client.store.uri}/demo>"
    status, results = job.status(), job.results()
    assert repr(status).startswith(f"<JobStatus of demo: {status.state} · ")
    assert "rows" in repr(status)
    assert len(repr(status)) < 300
    assert str(status.state) in _Tags(job._repr_html_()).text
    assert _Tags(status._repr_html_()).names <= {"div", "strong", "table", "tr", "td"}
    assert len(results) == results.num_rows
    assert repr(results).startswith(f"<Results of demo: {len(results)} rows in 1 shard, ")
    assert ("not complete" in repr(results)) == (kind not in ("good", "gate"))
    page = _Tags(results._repr_html_())
    assert "generated_text" in page.text
    assert results.to_table()["generated_text"][0].as_py() in page.text
    if kind == "failed":
        assert HOSTILE in _Tags(status._repr_html_()).text, "as text, not as a tag"


def test_a_job_that_is_gone_is_shown_without_an_error(client: BatchClient) -> None:
    job = client.exact_job("nope")
    assert repr(job) == f"<Job nope at {client.store.uri}/nope>"
    assert "No job nope" in _Tags(job._repr_html_()).text
    with pytest.raises(UsageError, match="No job nope"):
        client.job("nope")


def test_the_package_lists_its_names() -> None:
    assert dir(jobs) == sorted(jobs.__all__)
    assert {"BatchClient", "Job", "JobFailed", "GateFailed", "Results"} <= {*dir(jobs)}
