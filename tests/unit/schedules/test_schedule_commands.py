"""`jobs schedule` as people type it, on a root in a directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.errors import JobsError, UsageError
from jobs.schedules.book import Book
from jobs.schedules.gateway import ClientGateway
from jobs.schedules.scheduler import Scheduler
from jobs.settings import Settings
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas.exports import Export
from tests.unit.schedules.world import World, at, schedule_of

Typed = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def typed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    monkeypatch.setenv("JOBS_ROOT", str(root))
    monkeypatch.setenv("JOBS_ENGINE", "fake")

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["schedule", *words])

    return run


def create(typed: Typed, *more: str, dataset: str = "/in/{{ date }}/") -> Result:
    return typed("create", "nightly", dataset, "--cron", "0 2 * * *", *more)


@pytest.mark.parametrize("option", ["--deadline", "--input-deadline", "--retry-backoff"])
def test_a_duration_needs_a_unit(option: str, typed: Typed) -> None:
    refused = create(typed, option, "6")
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.message == f"{option} 6 has no unit."
    assert "6h" in refused.exception.hint


@pytest.mark.parametrize(
    ("export", "why"),
    [
        ("missing/{{ date }}.parquet", "is missing"),
        ("{tmp}/missing/{{{{ date }}}}.parquet", "is missing"),
        ("{tmp}/{{{{ date }}}}.unknown", "does not say what it is"),
        ("s3://bucket/", "does not say what it is"),
        ("iceberg:prod.reviews", "is not a table"),
    ],
)
def test_an_export_that_cannot_be_written_is_refused_at_once(
    export: str, why: str, typed: Typed, tmp_path: Path
) -> None:
    refused = create(typed, "--export", export.format(tmp=tmp_path) if "{tmp}" in export else export)
    assert isinstance(refused.exception, JobsError)
    assert why in f"{refused.exception} {refused.exception.hint}"
    assert typed("list", "-q").stdout == ""


def test_a_directory_of_exports_named_after_the_date_may_come_later(typed: Typed, tmp_path: Path) -> None:
    assert create(typed, "--export", f"{tmp_path}/{{{{ date }}}}/out.parquet").exit_code == 0


def test_show_has_every_setting(typed: Typed, tmp_path: Path) -> None:
    made = create(
        typed,
        *("--wait-for", "/in/{{ date }}/_SUCCESS", "--deadline", "6h", "--cancel-late", "--input-deadline", "90m"),
        *("--export", f"{tmp_path}/{{{{ date }}}}.parquet", "--retries", "2", "--overlap", "queue"),
        *("--webhook", "https://example.com/hook?token=hidden", "--webhook-secret-env", "HOOK_SECRET"),
        *("--catch-up", "all", "--max-catch-up", "3", "--notify-on", "failed,late"),
    )
    assert made.exit_code == 0, made.exception
    lines = dict(line.split("   ", 1) for line in typed("show", "nightly").stdout.splitlines() if "   " in line)
    shown = {name.strip(): value.strip() for name, value in lines.items()}
    assert shown["wait for"] == "/in/{{ date }}/_SUCCESS"
    assert shown["deadline"] == "6 h after the run begins; a late job is cancelled"
    assert shown["input deadline"] == "1 h 30 min after the run begins"
    assert shown["export"] == f"{tmp_path}/{{{{ date }}}}.parquet"
    assert shown["retries"] == "2, the first after 1 min"
    assert (shown["overlap"], shown["catch up"]) == ("queue", "all, at most 3")
    assert shown["webhooks"] == "https://example.com/… (signed, secret in $HOOK_SECRET)"
    assert shown["notify on"] == "failed, late"


def test_latest_tells_an_unknown_name_from_one_without_results(typed: Typed) -> None:
    refused = typed("latest", "nightly")
    assert isinstance(refused.exception, UsageError)
    assert "There is no schedule 'nightly'" in str(refused.exception)
    assert create(typed).exit_code == 0
    nothing = typed("latest", "nightly")
    assert (nothing.exit_code, nothing.stderr) == (1, "Nothing of nightly has been published yet.\n")


def test_a_run_names_what_it_waits_for(typed: Typed, tmp_path: Path) -> None:
    day = tmp_path / "in" / "2026-03-01"
    day.mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["x"]}), day / "rows.parquet")
    dataset = f"{tmp_path}/in/{{{{ date }}}}/"
    assert create(typed, "--wait-for", f"{dataset}_SUCCESS", dataset=dataset).exit_code == 0
    ran = typed("run", "nightly", "--date", "2026-03-01", "--json")
    assert json.loads(ran.stdout)["outcome"] == "not done"
    assert f"The run waits for {day}/_SUCCESS until " in ran.stderr
    assert f"{day}/ " not in ran.stderr, "the folder is there"


def test_a_job_is_never_named_after_a_template(root: Path) -> None:
    book, due = Book(open_store(str(root))), at("2026-03-10T01:30")
    spec = schedule_of(due).spec
    for name, given, expected in [
        ("made", "{{ date }}", "made-2026-03-10"),
        ("given", "reviews of {{ date }}", "reviews of 2026-03-10"),
        ("plain", "reviews", "reviews"),
    ]:
        run = book.open(schedule_of(due, name=name, spec=spec.evolve(name=given)), due, due)
        assert run.spec.name == expected


def test_a_missing_export_ends_the_run_before_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, at("2026-03-10T01:31"), {})
    world.book.create(schedule_of(at("2026-03-10T01:00"), export="/out/{{ date }}.parquet"))
    world.unwritable.add("/out/2026-03-10.parquet")
    world.scheduler().tick()
    assert world.outcomes() == {"2026-03-10": "failed"}
    assert world.submits == []


def test_the_gateway_tries_the_export(root: Path, s3_bucket: str, tmp_path: Path) -> None:
    gateway = ClientGateway(Settings(root=str(root)))
    gateway.check_exports([Export(target=f"{tmp_path}/out.parquet")])
    with pytest.raises(UsageError, match="is missing"):
        gateway.check_exports([Export(target=f"{tmp_path}/no/out.parquet")])
    gateway.check_exports([Export(target=f"s3://{s3_bucket}/root/out.parquet")])
    store: ObjectStore = open_store(f"s3://{s3_bucket}/root")
    assert list(store.list("")) == [], "trying leaves no trace"
    with pytest.raises(JobsError, match="no such bucket"):
        gateway.check_exports([Export(target="s3://no-such-bucket-here/out.parquet")])


def test_a_scheduler_says_once_what_a_run_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(monkeypatch, at("2026-03-10T01:31"), {})
    world.book.create(schedule_of(at("2026-03-10T01:00"), wait_for="s3://in/{{ date }}/_SUCCESS"))
    world.missing = lambda uri, now: uri.endswith("_SUCCESS")
    caplog.set_level("INFO")
    scheduler: Scheduler = world.scheduler()
    for _ in range(3):
        scheduler.tick()
    waits = [record.getMessage() for record in caplog.records if "waits for" in record.getMessage()]
    assert waits == [
        "2026-03-10 of nightly waits for s3://in/2026-03-10/_SUCCESS until 2026-03-10 08:31",
    ]
    assert datetime.now(UTC) > world.now
