"""What people may call a job, in the client and on the command line."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.cli.commands import app
from jobs.client import BatchClient
from jobs.errors import UsageError
from jobs.job_ids import find_job
from jobs.store.local import LocalStore
from tests.unit.results.ledgers import make_job, succeed


class Counting(LocalStore):
    """A store that counts its requests."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if name in ("get", "head", "list", "list_folders"):
            self.requests[name] += 1
        return super().__getattribute__(name)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    return Counting(tmp_path / "root")


def _jobs(store: LocalStore, *ids: str, name: str | None = None) -> None:
    """Make jobs, each a second younger than the one before."""
    for job_id in ids:
        succeed(make_job(store, [[0, 1]], job_id=job_id, name=name or job_id))
        path = Path(store.uri) / job_id / "_job" / "spec.json"
        _jobs.at += 1  # type: ignore[attr-defined]
        os.utime(path, (_jobs.at, _jobs.at))  # type: ignore[attr-defined]


_jobs.at = 1_700_000_000  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("reviews-20260302-x", "reviews-20260302-x"),
        ("reviews-20260302", "reviews-20260302-x"),
        ("reviews", "reviews"),
        ("b", "books"),
        ("latest", "reviews"),
        ("Nightly reviews", "reviews-20260302-x"),
    ],
)
def test_an_id_its_beginning_a_name_and_latest(store: Counting, reference: str, found: str) -> None:
    _jobs(store, "books", "reviews-20260301-x")
    _jobs(store, "reviews-20260302-x", name="Nightly reviews")
    _jobs(store, "reviews")
    assert find_job(store, reference).job_id == found
    assert BatchClient(root=store.uri).job(reference).id == found


def test_a_job_whose_id_is_latest_comes_first(store: Counting) -> None:
    _jobs(store, "latest", "newer")
    assert find_job(store, "latest").job_id == "latest"


def test_an_exact_id_costs_one_request(store: Counting) -> None:
    _jobs(store, "demo", "demo-2")
    store.requests.clear()
    assert find_job(store, "demo").job_id == "demo"
    assert store.requests == {"head": 1}


def test_several_that_fit_are_listed(store: Counting) -> None:
    _jobs(store, *(f"demo-{i:02d}" for i in range(12)))
    with pytest.raises(UsageError, match=r"12 jobs fit demo: demo-00, demo-01, .*demo-09 and 2 more"):
        find_job(store, "demo")
    _jobs(store, "x1", "y1", name="Same name")
    with pytest.raises(UsageError, match="2 jobs fit Same name: x1, y1"):
        find_job(store, "Same name")


def test_none_that_fits_says_what_is_near(store: Counting) -> None:
    with pytest.raises(UsageError, match="There are no jobs"):
        find_job(store, "latest")
    _jobs(store, "reviews")
    (Path(store.uri) / "reviewz" / "x").mkdir(parents=True)
    (Path(store.uri) / "reviewz" / "x" / "y").write_text("no job")
    with pytest.raises(UsageError, match=r"No job reviewz .*Did you mean reviews"):
        find_job(store, "reviewz")
    for nothing in ("nope", "", "../reviews", "a" * 5000):
        with pytest.raises(UsageError, match="No job ") as caught:
            find_job(store, nothing)
        assert len(caught.value.message) < 300


def test_every_command_takes_them(
    store: Counting, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _jobs(store, "reviews-20260301-x", "books")
    for command in (
        ["status", "rev"],
        ["watch", "rev"],
        ["wait", "rev"],
        ["results", "rev", str(tmp_path / "out.jsonl")],
        ["report", "rev"],
        ["compare", "rev", "latest"],
        ["sql", "rev", "select count(*) from results"],
        ["cancel", "rev"],
        ["resume", "rev"],
    ):
        code = main(command)
        said = capfd.readouterr()
        assert "No job rev" not in said.err, command
        assert code in (0, 3), (command, said.err)
    assert (tmp_path / "reviews-20260301-x.html").exists()
    main(["cancel", "rev", "--json"])
    assert json.loads(capfd.readouterr().out)["job_id"] == "reviews-20260301-x"
    assert main(["status", "e"]) == 2
    assert "No job e" in capfd.readouterr().err


def test_reuse_takes_them(store: Counting, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _jobs(store, "reviews-20260301-x")
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a"}\n')
    plan = ["plan", str(data), "--engine", "fake", "--json", "--reuse"]
    assert main([*plan, "reviews"]) == 0, capfd.readouterr().err
    assert main([*plan, "books"]) == 2
    assert "No job books" in capfd.readouterr().err
    client = BatchClient(root=store.uri)
    assert client.plan(data, engine="fake", reuse=["latest"]).rows == 1


def test_commands_that_take_an_id_complete_it() -> None:
    taking = [c.name for c in app.registered_commands if c.callback and "job_id" in c.callback.__annotations__]
    assert {"status", "watch", "wait", "logs", "results", "report", "sql", "cancel", "resume"} <= {*taking}
