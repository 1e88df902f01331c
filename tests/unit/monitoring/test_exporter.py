"""The facts as Prometheus gets them: from the scheduler's process and from the batch API, until one of them dies."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.errors import StoreError, UsageError
from jobs.monitoring.exporter import Exporter
from jobs.schedules.book import Book
from jobs.serve.batches import Batches
from jobs.settings import Settings
from jobs.store.local import LocalStore
from schemas.batches import BatchRequest
from schemas.records import Progress
from schemas.schedules import Pointer, RunOutcome
from tests.support.monitoring import MONITORING, needs_prometheus, prometheus
from tests.unit.report.jobs_with_past import make_job_with_past
from tests.unit.schedules.world import schedule_of
from tests.unit.serve.conftest import TOKEN, serving

NOW = datetime.now(UTC).replace(microsecond=0)
LAST_NIGHT = NOW - timedelta(days=1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root in which everything has happened: nights of two schedules, a job without a driver, a batch."""
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("JOBS_ADDRESS", raising=False)
    store = LocalStore(tmp_path / "root")
    book = Book(store)
    # Their runs wait for input that never comes, so no scheduler of a test submits a job.
    spec = schedule_of(LAST_NIGHT).spec
    spec = spec.evolve(input=spec.input.evolve(uri=str(tmp_path / "in-{{ date }}")))
    for name, kind in (("nightly", "failed"), ("reviews", "succeeded")):
        since = NOW - timedelta(days=3)
        schedule = schedule_of(since, name=name, spec=spec, cron="0 2 * * *", tz="UTC")
        book.create(schedule)
        run = book.open(schedule, LAST_NIGHT.replace(hour=2, minute=0, second=0) - timedelta(days=1), since)
        book.settle(run, RunOutcome(kind=kind, at=LAST_NIGHT, num_rows=100, num_error_rows=1))  # type: ignore[arg-type]
        make_job_with_past(store, run.job_id).write_progress(
            Progress(driver=run.job_id, updated_at="", started_at="", phase="ended", gpu_s=3600.0)
        )
        pointer = {"schedule": name, "logical_date": run.logical_date, "job_id": run.job_id, "uri": "x"}
        book.publish(Pointer(**pointer, num_rows=100, num_error_rows=1, published_at=LAST_NIGHT))
    request = {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = BatchRequest(
        id="batch_1", **request, created_at=int(NOW.timestamp()), expires_at=2_000_000_000, model="another"
    )
    Batches(store).write("batch_1", "request", batch)
    return tmp_path / "root"


def samples(text: str) -> dict[str, float]:
    """Return the values of a scrape by name and labels."""
    return {
        f"{each.name}{''.join(f' {key}={value}' for key, value in sorted(each.labels.items()))}": each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def test_a_scrape_shows_what_was_read_last_and_how_old_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Exporter(Settings(root=str(root), gpu_hour_price=2.5))
    assert "nightbatch_schedule_" not in exporter.text().decode(), "nothing is read yet"
    exporter.read()
    found = samples(exporter.text().decode())
    assert found["nightbatch_schedule_last_run_outcome outcome=failed schedule=nightly"] == 1
    assert found["nightbatch_schedule_last_run_outcome outcome=succeeded schedule=nightly"] == 0
    assert found["nightbatch_schedule_last_run_outcome outcome=succeeded schedule=reviews"] == 1
    assert found["nightbatch_schedule_last_success_timestamp_seconds schedule=reviews"] == LAST_NIGHT.timestamp()
    assert found["nightbatch_schedule_last_run_cost schedule=nightly"] == 2.5
    assert found["nightbatch_schedule_last_run_gpu_seconds schedule=nightly"] == 3600
    assert found["nightbatch_jobs state=INTERRUPTED"] == 2
    assert found["nightbatch_jobs state=RUNNING"] == 0
    assert found["nightbatch_batches status=validating"] == 1
    assert abs(found["nightbatch_facts_timestamp_seconds kind=jobs"] - time.time()) < 60

    def away(_: object) -> None:
        raise StoreError("The store is away.")

    monkeypatch.setattr("jobs.index.jobs.list_jobs", away)
    exporter.read()
    later = samples(exporter.text().decode())
    assert later["nightbatch_jobs state=INTERRUPTED"] == 2, "the last known number"
    kept, renewed = ("nightbatch_facts_timestamp_seconds kind=jobs", "nightbatch_facts_timestamp_seconds kind=batches")
    assert later[kept] == found[kept]
    assert later[renewed] > found[renewed]


def test_no_gauge_is_named_like_a_counter_and_every_name_in_use_exists(root: Path) -> None:
    exporter = Exporter(Settings(root=str(root), gpu_hour_price=2.5))
    _open_tonight(root)
    exporter.read()
    exporter.ticked()
    families = {family.name: family for family in text_string_to_metric_families(exporter.text().decode())}
    assert not [name for name in families if name.endswith(("_total", "_count", "_sum"))]
    shown = {name for name, family in families.items() if family.samples}
    files = (MONITORING / "alerts.yml", MONITORING / "grafana-dashboard.json")
    used = {name for file in files for name in re.findall(r"\bnightbatch_\w+", file.read_text())}
    assert len(used) > 10
    assert used <= shown


def _open_tonight(root: Path) -> None:
    book = Book(LocalStore(root))
    book.open(book.schedule("nightly"), NOW.replace(hour=2, minute=0, second=0), NOW)


def test_the_batch_api_shows_them_to_who_has_the_token(root: Path) -> None:
    with serving(root) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        headers = {"authorization": f"Bearer {TOKEN}"}
        deadline = time.monotonic() + 20
        while "nightbatch_batches" not in (got := httpx.get(f"{server.url}/metrics", headers=headers)).text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert got.headers["content-type"].startswith("text/plain; version=")
        assert httpx.get(f"{server.url}/metrics?x=1", headers=headers).status_code == 400


def test_a_port_that_is_taken_is_a_usage_error(root: Path) -> None:
    exporter = Exporter(Settings(root=str(root)))
    port = exporter.serve("127.0.0.1", 0)
    with pytest.raises(UsageError, match="--metrics-port"):
        exporter.serve("127.0.0.1", port)


@contextmanager
def scheduler(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the scheduler as a person does; yields its process and where its metrics are."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", "schedule", "serve", "--root", str(root), "--metrics-port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while not (match := re.search(r'"metrics": *"http://([^/]+)/metrics"', said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, match[1]
    finally:
        process.kill()
        process.wait(20)


@needs_prometheus
def test_prometheus_sees_the_night_that_failed_and_the_scheduler_that_dies(root: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with serving(root) as api, scheduler(root) as (process, address):
        where = {"scheduler": address, "api": api.url.removeprefix("http://"), "token": tmp_path / "token"}
        with prometheus(tmp_path / "prometheus", **where) as server:  # type: ignore[arg-type]
            server.wait_for(
                {
                    "both show the facts": 'count(nightbatch_facts_timestamp_seconds{kind="jobs"}) == 2',
                    "the scheduler ticks": "nightbatch_scheduler_tick_timestamp_seconds > 0",
                    "a night failed": 'ALERTS{alertname="NightFailed", schedule="nightly", alertstate="firing"}',
                    "a job has no driver": 'ALERTS{alertname="JobInterrupted", alertstate="pending"}',
                },
                timeout_s=60,
            )
            assert server.query('ALERTS{alertname=~"FactsMissing|FactsOld|SchedulerDown"}') == []
            process.send_signal(signal.SIGKILL)
            server.wait_for(
                {
                    "its series vanish": "absent(nightbatch_scheduler_tick_timestamp_seconds)",
                    "what it said last is kept": "last_over_time(nightbatch_scheduler_tick_timestamp_seconds[1d])",
                    "the API goes on": 'nightbatch_facts_timestamp_seconds{job="nightbatch-api", kind="schedules"}',
                },
                timeout_s=30,
            )
