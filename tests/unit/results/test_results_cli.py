"""`jobs results`, `status`, `list` and `watch` as a user calls them, on jobs that lie in a store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.ledger import Ledger
from jobs.store import open_store
from schemas.records import Cancelled, Failed, Progress
from schemas.schedule_keys import run_key
from tests.unit.results.ledgers import is_error, make_job, result_rows, spec_of, succeed

SHARDS = [list(range(i, 60, 3)) for i in range(3)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


@pytest.fixture
def done(root: Path) -> str:
    ledger = make_job(open_store(str(root)), SHARDS)
    succeed(ledger)
    return ledger.job_id


def progress_of(updated_at: datetime, **changes: object) -> Progress:
    stamp = updated_at.isoformat(timespec="seconds")
    values = {"driver": "elsewhere", "updated_at": stamp, "started_at": stamp, "phase": "running", "rows_total": 60}
    return Progress.model_validate(values | changes)


def test_a_file_of_each_format(done: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("out.parquet", "out.jsonl", "out.csv", "out.json"):
        assert main(["results", done, str(tmp_path / name), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["rows"], told["complete"]) == (60, True)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == result_rows(range(60)).to_pylist()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 60


def test_failed_rows_and_columns(done: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["results", done, "--failed", "-c", "row_id,error_code"]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert rows == [{"row_id": i, "error_code": "EMPTY_PROMPT"} for i in range(60) if is_error(i)]


def test_a_pipe_gets_json_lines_and_head_counts(done: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["results", done, "--limit", "7"]) == 0
    assert [json.loads(line)["row_id"] for line in capfdbinary.readouterr().out.splitlines()] == list(range(7))
    assert main(["results", done, "--json", "--limit", "2"]) == 0
    assert [row["row_id"] for row in json.loads(capfdbinary.readouterr().out)] == [0, 1]


def test_a_terminal_gets_a_table_that_fits(
    done: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert main(["results", done, "--head", "4"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[0] == "row_id"
    assert max(map(len, lines)) <= 120
    assert "\\n" not in captured.out
    assert "4 of 60 rows." in captured.err


def test_head_is_a_table_in_a_pipe_too(done: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", done, "--head", "2", "-c", "row_id,status", "--where", "row_id>3"]) == 0
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines()] == [["row_id", "status"], ["4", "ok"], ["5", "ok"]]
    assert "2 rows, there may be more." in captured.err


def test_an_unfinished_job_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_job(open_store(str(root)), SHARDS, commit=[1])
    assert main(["results", "demo", "out.parquet", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["complete"] is False
    assert "has not ended: these are the 20 rows of the 1 shards" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "s3://bucket"], "is not a place to write to"),
        (["demo", "gs://b/out.parquet"], "is not a place to write to"),
        (["demo", "s3://b/out"], "does not tell a format"),
        (["demo", "out.jsonl", "--format", "openai", "-c", "row_id"], "--columns has no meaning"),
        (["demo", "out.xlsx"], "does not tell a format"),
        (["demo", "--where", "status"], "is not a condition"),
        (["demo", "--where", "nope>1"], "no column 'nope'"),
        (["demo", "out.jsonl", "--head", "3"], "give --limit instead"),
        (["demo", "-c", "nope"], "no column 'nope'"),
        (["other"], "No job other"),
    ],
)
def test_bad_requests(done: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_bad_column_leaves_the_file_alone(done: str, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    assert main(["results", done, "out.csv", "--where", "nope=1"]) == 2
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_reader_that_leaves_is_no_error(done: str, root: Path) -> None:
    command = f"{sys.executable} -m jobs results {done} - --format csv | head -c 1; exit ${{PIPESTATUS[0]}}"
    for _ in range(2):
        ended = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert (ended.returncode, ended.stdout) == (0, b'"')
        assert not any(word in ended.stderr for word in (b"Error", b"Exception", b"roken"))


def test_status_tells_why_and_exits_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_job(open_store(str(root)), SHARDS, commit=[0, 2])
    ledger.end(Failed(code="ENGINE_DIED", reason="The engine died 4 times."), writer="test")
    assert main(["status", "demo"]) == 0
    captured = capsys.readouterr()
    assert "ENGINE_DIED: The engine died 4 times." in captured.out
    assert "40 of 60" in captured.out
    assert "jobs logs demo" in captured.err
    assert main(["status", "demo", "--exit-status", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["failure_code"], told["shards_committed"]) == ("FAILED", "ENGINE_DIED", 2)
    assert main(["status", "demo", "-q"]) == 0
    assert capsys.readouterr().out == "FAILED\n"


def test_status_of_a_job_with_too_many_errors(done: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", done]) == 0
    assert main(["status", done, "--exit-status"]) == 3
    assert "60 of 60 (100 %): 51 ok, 9 failed" in capsys.readouterr().out


@pytest.fixture
def some_jobs(root: Path, request: pytest.FixtureRequest) -> Callable[[], list[dict[str, object]]]:
    store = open_store(str(root))
    succeed(make_job(store, SHARDS, job_id="a-done"))
    Ledger(store, "b-waiting").create(spec_of(), writer="test")
    make_job(store, SHARDS, commit=[], job_id="c-cancelled").end(Cancelled(by="ada"), writer="test")
    now = datetime.now(UTC)
    make_job(store, SHARDS, job_id="d-running").write_progress(progress_of(now, rows_ok=12))
    make_job(store, SHARDS, job_id="e-stopped").write_progress(progress_of(now - timedelta(hours=1)))
    for age, job_id in enumerate(["d-running", "a-done", "e-stopped", "b-waiting", "c-cancelled"]):
        moment = now.timestamp() - 60 * age
        os.utime(root / job_id / "_job" / "spec.json", (moment, moment))
    capsys = request.getfixturevalue("capsys")

    def listed(*arguments: str) -> list[dict[str, object]]:
        assert main(["list", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return listed


def test_list_is_newest_first(some_jobs: Callable[..., list[dict[str, object]]]) -> None:
    assert [(job["job_id"], job["state"]) for job in some_jobs()] == [
        ("d-running", "RUNNING"),
        ("a-done", "GATE_FAILED"),
        ("e-stopped", "INTERRUPTED"),
        ("b-waiting", "QUEUED"),
        ("c-cancelled", "CANCELLED"),
    ]
    running, done = some_jobs("--limit", "2")
    assert (running["rows_done"], running["rows_total"]) == (12, 60)
    assert (done["rows_done"], done["rows_error"]) == (60, 9)
    assert [job["job_id"] for job in some_jobs("--state", "QUEUED", "--state", "CANCELLED")] == [
        "b-waiting",
        "c-cancelled",
    ]
    assert list(running) == [
        *("job_id", "state", "rows_total", "rows_done", "rows_error", "created_at", "name", "dataset", "uri"),
        *("reason", "hint", "rows_computing", "duration_s", "crossed_gates", "schedule", "retry_of", "gpu_s"),
    ]


def test_list_and_status_agree(
    some_jobs: Callable[..., list[dict[str, object]]], capsys: pytest.CaptureFixture[str]
) -> None:
    for listed in some_jobs():
        assert main(["status", str(listed["job_id"]), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {key: told[key] for key in listed} == listed


def test_list_as_a_table(some_jobs: Callable[..., list[dict[str, object]]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--limit", "2"]) == 0
    captured = capsys.readouterr()
    lines = [re.split("  +", line) for line in captured.out.splitlines()]
    created = [job["created_at"][:16].replace("T", " ") for job in some_jobs("--limit", "2")]  # type: ignore[index]
    assert lines == [
        ["ID", "STATE", "ROWS", "ERRORS", "DURATION", "GATE", "CREATED (UTC)", "NAME"],
        ["d-running", "RUNNING", "12 of 60", "0", "0 s", "-", created[0], "demo"],
        ["a-done", "GATE_FAILED", "60", "9", "1 min", "errors 15 %", created[1], "demo"],
    ]
    assert "There are more" in captured.err


def test_list_fits_80_columns_and_never_cuts_an_id(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(root))
    night = "nightly-customer-reviews-2026-03-01"
    succeed(make_job(store, SHARDS, job_id=night))
    store.put_new(run_key("nightly-customer-reviews", "2026-03-01", 1, "run"), b"{}", writer="test")
    make_job(store, SHARDS, job_id="by-hand-2026-03-01")
    lines = {}
    for width in ("80", "200"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("COLUMNS", width)
            assert main(["list"]) == 0
        lines[width] = capsys.readouterr().out.splitlines()
        assert any(line.startswith(f"{night}  GATE_FAILED  60") for line in lines[width])
    assert max(map(len, lines["80"])) <= 80
    assert "SCHEDULE" in lines["200"][0]
    assert sum("nightly-customer-reviews  20" in line for line in lines["200"]) == 1
    assert main(["list", "--json"]) == 0
    listed = {job["job_id"]: job["schedule"] for job in json.loads(capsys.readouterr().out)}
    assert listed == {night: "nightly-customer-reviews", "by-hand-2026-03-01": None}
    assert main(["status", night]) == 0
    assert re.search("^schedule +nightly-customer-reviews$", capsys.readouterr().out, re.MULTILINE)


def test_a_job_of_another_version_does_not_hide_the_others(
    some_jobs: Callable[..., list[dict[str, object]]], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "b-waiting" / "_job" / "spec.json").write_text('{"format_version": 999}')
    assert main(["list", "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["d-running", "a-done", "e-stopped", "c-cancelled"]
    assert "Job b-waiting is left out" in captured.err


def test_no_jobs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(root) in captured.err
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_watching_an_ended_job(done: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", done]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Job demo did not pass its gate: 9 of 60 rows are errors (15 %; max_error")


def test_watching_an_interrupted_job(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_job(open_store(str(root)), SHARDS, commit=[0])
    ledger.write_progress(progress_of(datetime.now(UTC) - timedelta(hours=1), rows_ok=50))
    assert main(["watch", "demo", "--json"]) == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["state"], told["rows_done"]) == ("INTERRUPTED", 20)
    assert "Job demo was interrupted, 1 of 3 shards committed" in captured.err


def test_watching_times_out(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.cli.watch.LINE_INTERVAL_S", 0.0)
    ledger = make_job(open_store(str(root)), SHARDS, commit=[])
    ledger.write_progress(progress_of(datetime.now(UTC), rows_ok=12, shards_total=3))
    assert main(["watch", "demo", "--timeout", "2"]) == 124
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "RUNNING · 12 of 60 rows (20 %) · 0 of 3 shards"
    assert lines[1] == "Job demo has not ended after 2 s. It goes on.", "nothing has changed, so no second line"
    assert main(["watch", "demo", "--timeout", "0", "-q"]) == 124
    assert capsys.readouterr().err == ""


def test_lines_come_slowly(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_job(open_store(str(root)), SHARDS, commit=[])
    stop = threading.Event()

    def drive() -> None:
        rows = 0
        while not stop.wait(0.2):
            rows += 1
            ledger.write_progress(progress_of(datetime.now(UTC), rows_ok=rows))

    ledger.write_progress(progress_of(datetime.now(UTC)))
    driver = threading.Thread(target=drive)
    driver.start()
    try:
        assert main(["watch", "demo", "--timeout", "3"]) == 124
    finally:
        stop.set()
        driver.join()
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("RUNNING") for line in lines[:2]] == [True, False]


def test_a_crossed_gate_is_one_state_everywhere(done: str, capsys: pytest.CaptureFixture[str]) -> None:
    gate = "9 of 60 rows are errors (15 %; max_error_rate allows at most 5 %)"

    def said(*command: str, code: int = 0) -> tuple[str, str]:
        assert main(list(command)) == code
        return tuple(capsys.readouterr())  # type: ignore[return-value]

    told = json.loads(said("status", done, "--json")[0])
    assert (told["state"], told["reason"], told["crossed_gates"][0]["gate"]) == ("GATE_FAILED", gate, "max_error_rate")
    assert said("status", done, "-q", "--exit-status", code=3)[0] == "GATE_FAILED\n"
    assert gate in said("status", done)[0]
    assert json.loads(said("watch", done, "--json", code=3)[0])["state"] == "GATE_FAILED"
    assert [job["reason"] for job in json.loads(said("list", "--state", "GATE_FAILED", "--json")[0])] == [gate]
    assert json.loads(said("list", "--state", "SUCCEEDED", "--json")[0]) == []
    assert json.loads(said("cancel", done, "--json")[0])["state"] == "GATE_FAILED"
    warning = f"Warning: Job {done} is GATE_FAILED: {gate}.\n"
    for command in (("results", done, "--head", "1"), ("results", done, "-q"), ("sql", done, "select 1")):
        assert said(*command)[1].startswith(warning)
    assert '<span class="state GATE_FAILED">GATE_FAILED</span>' in said("report", done, "-")[0]


def test_results_go_to_s3_whole(done: str, s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"s3://{s3_bucket}/exports/out.jsonl"
    assert main(["results", done, target, "--json"]) == 0
    out, err = capsys.readouterr()
    written = {"file": target, "rows": 60, "format": "jsonl", "complete": True, "state": "GATE_FAILED"}
    assert json.loads(out) == written
    assert err.startswith("Warning: Job demo is GATE_FAILED: 9 of 60 rows are errors (15 %; max_error_rate allows")
    data = open_store(f"s3://{s3_bucket}/exports").get("out.jsonl")
    assert data is not None
    assert [json.loads(line)["row_id"] for line in data.splitlines()] == list(range(60))
    assert main(["results", done, f"s3://{s3_bucket}/exports/other.csv", "--where", "nope=1"]) == 2
    assert [info.key for info in open_store(f"s3://{s3_bucket}/exports").list()] == ["out.jsonl"]
    assert main(["results", done, "s3://no-such-bucket-here/out.csv"]) == 4
    assert "no such bucket" in capsys.readouterr().err
