"""A job id is one plain segment of a path: whatever else is given is refused, and nothing is written anywhere."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.errors import Exit, UsageError

TRICKS = [
    "..",
    ".",
    "../elsewhere",
    "a/../../elsewhere",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..\\a",
    "%2e%2e%2fa",
    "a%2fb",
    ".hidden",
    "_job",
    "a.",
    "Upper",
    "a b",
    "a\n",
    "a\x00b",
    "a;touch x",
    "$(touch x)",
    "'a'",
    "ümlaut",
    "．．／a",
    "a\u202eb",
    "\udcff",
    "a" * 101,
    "a" * 100_000,
    "",
    "s3://bucket/a",
]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    pq.write_table(pa.table({"prompt": ["a"]}), place / "a.parquet")
    monkeypatch.setenv("JOBS_ROOT", str(place / "root"))
    monkeypatch.setenv("JOBS_STATE_DIR", str(place / "state"))
    monkeypatch.setenv("JOBS_ENGINE", "fake")
    monkeypatch.chdir(place)

    def start() -> None:
        raise AssertionError("a cluster is started")

    monkeypatch.setattr("jobs.cluster.embedded.up", start)
    return place / "a.parquet"


@pytest.mark.parametrize("job_id", TRICKS)
def test_tricks_with_ids_are_refused_and_write_nothing(dataset: Path, job_id: str) -> None:
    before = sorted(dataset.parent.parent.rglob("*"))
    commands = [
        ["submit", str(dataset), f"--id={job_id}"],
        ["submit", str(dataset), f"--reuse={job_id}"],
        *([name, "--", job_id] for name in ("resume", "results", "report")),
    ]
    for command in commands:
        if command[1] == str(dataset) and not job_id:
            continue  # An empty option is one that is not given.
        done = CliRunner().invoke(app, command)
        refused = isinstance(done.exception, UsageError) and done.exception.exit_code == Exit.USAGE
        assert refused or (isinstance(done.exception, ValueError) and "job id" in str(done.exception)), (
            command[0],
            done.exception,
        )
    assert sorted(dataset.parent.parent.rglob("*")) == before


def test_an_id_of_the_allowed_form_goes_on(dataset: Path) -> None:
    done = CliRunner().invoke(app, ["submit", str(dataset), "--id", "a..b-0_1." + "x" * 91])
    assert "a cluster is started" in str(done.exception)
