"""Buckets outside the allowed ones are refused before anything is contacted, by the client and by the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from jobs import BatchClient, settings
from jobs.buckets import check_bucket, of_environment
from jobs.cli import app
from jobs.cluster.submission import Submitter, driver_environment
from jobs.dataset import finding
from jobs.errors import Exit, UsageError
from jobs.ledger import Ledger
from jobs.schedules.gateway import ClientGateway
from jobs.settings import Settings
from jobs.store.local import LocalStore
from jobs.store.s3_client import S3Client
from schemas.environment import ALLOWED_BUCKETS
from schemas.exports import Export
from schemas.spec import InputSpec, JobSpec, ModelSpec
from workers.driver import entry

GOOD, BAD = "s3://good/x.parquet", "s3://bad/x.parquet"
SPEC = JobSpec(name="n", input=InputSpec(uri=BAD), model=ModelSpec(path="builtin:bytes")).evolve(
    engine={"name": "fake"}
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `good` is allowed, and whoever contacts anything fails."""

    def contact(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something is contacted")

    monkeypatch.setattr(S3Client, "call", contact)
    monkeypatch.setattr(Submitter, "__init__", contact)
    monkeypatch.setattr("jobs.cluster.embedded.up", contact)
    monkeypatch.chdir(tmp_path)
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(settings.PREFIX + name.upper(), raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_ENGINE", "fake")
    monkeypatch.setenv(ALLOWED_BUCKETS, "good, better")


@pytest.mark.parametrize(
    "command",
    [
        ("submit", BAD),
        ("submit", "s3://bad/**/*.parquet", "--id", "x"),
        ("submit", GOOD, "--root", "s3://bad/jobs"),
        ("submit", GOOD, "--root", "s3://bad", "--reuse", "auto"),
        ("plan", BAD),
        ("plan", GOOD, "--root", "s3://bad/jobs"),
        ("list", "--root", "s3://bad/jobs"),
        ("resume", "x", "--root", "s3://bad/jobs"),
        ("results", "x", "--root", "s3://bad/jobs"),
        ("results", "x", BAD),
        ("report", "x", "s3://bad/x.html"),
        ("compare", "x", "y", "--out", BAD),
        ("doctor", "--root", "s3://bad/jobs"),
        ("serve", "--root", "s3://bad/jobs", "--port", "0"),
        ("schedule", "create", "s", BAD, "--cron", "0 2 * * *"),
        ("schedule", "create", "s", "s3://{{ year }}/x.parquet", "--cron", "0 2 * * *"),
        ("schedule", "create", "s", GOOD, "--cron", "0 2 * * *", "--export", "s3://bad/{{ date }}.parquet"),
        ("submit", GOOD, "--export", BAD),
        ("submit", GOOD, "--export", "delta:s3://bad/table"),
        ("schedule", "create", "s", GOOD, "--cron", "0 2 * * *", "--export", "delta:s3://bad/{{ year }}"),
        ("schedule", "create", "s", GOOD, "--cron", "0 2 * * *", "--wait-for", "s3://bad/{{ date }}/_SUCCESS"),
        ("schedule", "serve", "--root", "s3://bad/jobs"),
    ],
)
def test_the_command_line_refuses_what_is_not_allowed(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, command)
    error = done.exception
    assert isinstance(error, UsageError), done.output
    assert error.exit_code == Exit.USAGE
    assert "is not among the allowed ones: good, better." in str(error)
    assert "JOBS_ALLOWED_BUCKETS or jobs.toml" in error.hint


@pytest.mark.parametrize(
    "command", [("submit", GOOD), ("submit", GOOD, "--root", "s3://better/jobs"), ("list", "--root", "s3://good/jobs")]
)
def test_what_is_allowed_goes_on(command: tuple[str, ...]) -> None:
    assert "something is contacted" in str(CliRunner().invoke(app, command).exception)


def test_the_client_and_the_batch_service_refuse_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not among the allowed"):
        BatchClient().submit(SPEC)
    ledger = Ledger(LocalStore(tmp_path / "root"), "standing")
    ledger.create(SPEC, writer="test")
    with pytest.raises(UsageError, match="not among the allowed"):
        BatchClient().job("standing").resume()
    assert ledger.terminal() is None


def test_a_schedule_is_refused_by_what_its_templates_become(tmp_path: Path) -> None:
    runner = ClientGateway(Settings(root=str(tmp_path), allowed_buckets=("good",)))
    for step in (
        lambda: runner.is_there(BAD),
        lambda: runner.submit(SPEC, "x"),
        lambda: runner.export("x", [Export(target=BAD)]),
    ):
        with pytest.raises(UsageError, match="not among the allowed"):
            step()


def nowhere(namespace: str) -> NoReturn:
    raise AssertionError("the driver asks for no cluster")


def test_the_driver_refuses_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Ledger(LocalStore(tmp_path / "root"), "standing").create(SPEC, writer="test")
    assert entry.main("s3://bad/jobs/standing", nowhere) == Exit.USAGE
    assert entry.main(str(tmp_path / "root" / "standing"), nowhere) == Exit.USAGE
    assert caplog.text.count("'bad' is not among the allowed ones: good, better.") == 2


def test_the_driver_is_told() -> None:
    assert driver_environment(settings.load().allowed_buckets)[ALLOWED_BUCKETS] == "good,better"
    assert ALLOWED_BUCKETS not in driver_environment()


def test_the_driver_is_told_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED_BUCKETS, driver_environment(())[ALLOWED_BUCKETS])
    assert of_environment() == ()
    with pytest.raises(UsageError, match="not among the allowed ones: none"):
        check_bucket("s3://good/jobs", of_environment())


def test_names_come_from_the_file_too_and_must_be_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED_BUCKETS)
    assert settings.load().allowed_buckets is None
    (tmp_path / "jobs.toml").write_text('allowed_buckets = ["one", "two"]\n')
    assert settings.load().allowed_buckets == ("one", "two")
    (tmp_path / "jobs.toml").write_text('allowed_buckets = ["s3://one"]\n')
    with pytest.raises(UsageError, match=r"jobs\.toml.*without s3://"):
        settings.load()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://good.evil/x",
        "s3://GOOD/x",
        "s3://good#@evil/x",
        "s3://good?x/y",
        "s3://good\t/x",
        "s3://evil@good/x",
        "s3://",
        "s3:///good/x",
        "s3://../good/x",
        "s3://key:secret-word@bucket/x",
    ],
)
def test_tricks_do_not_help(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_bucket(uri, ("good",))
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("uri", ["S3://evil/x", " s3://evil/x", "s3:/evil/x", "s3a://evil/x"])
def test_what_passes_as_no_address_of_s3_is_not_read_as_one(uri: str) -> None:
    check_bucket(uri, ("good",))
    with pytest.raises(UsageError):
        finding.find_sources(uri)
