"""Only new rows: a table that has grown costs its growth, and equal rows are computed once."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import keys
from schemas.history import Activity
from tests.support.harness import User, check_invariants, new_id, write_prompts

pytestmark = pytest.mark.timeout(600)

SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=6")
OWN = {"row_id", "custom_id", "tag"}
"""Columns that a row does not take over with a result."""


def submit(user: User, dataset: Path, *arguments: str, name: str = "reuse") -> str:
    job_id = user.submit(
        *(str(dataset), "--engine", "fake", "--keep", "tag", "--id", new_id(name), "--wait", *SHARDS, *arguments)
    )
    assert job_id
    return job_id


def write(path: Path, numbers: list[int]) -> Path:
    return write_prompts(path, [f"prompt {n}" if n else "" for n in numbers], tag=[f"{path.stem} {n}" for n in numbers])


def rows(user: User, job_id: str, count: int) -> pa.Table:
    return check_invariants(user.ledger(job_id), count)


def by_prompt(table: pa.Table) -> dict[str, dict[str, object]]:
    """What each prompt came to, by the number in its tag."""
    return {
        row["tag"].split()[1]: {name: value for name, value in row.items() if name not in OWN}
        for row in table.to_pylist()
    }


def attempts(user: User, job_id: str, *, staging: bool) -> int:
    """Attempts by staging, or by replicas."""
    return sum((attempt.replica == "staging") == staging for attempt in user.ledger(job_id).attempts())


def test_a_table_that_grew_costs_its_growth(s3_user: User, tmp_path: Path) -> None:
    user = s3_user
    first = submit(user, write(tmp_path / "monday.parquet", list(range(100))))
    # The new table has the old rows in another order, three new ones, and one that could not be answered.
    grown = write(tmp_path / "tuesday.parquet", [102, *range(99, -1, -1), 101, 100])
    second = submit(user, grown, "--reuse", "auto")

    plan = user.ledger(second).plan()
    assert plan is not None
    assert (plan.num_reused_rows, plan.reused_jobs) == (99, (first,))
    old, new = by_prompt(rows(user, first, 100)), by_prompt(rows(user, second, 103))
    assert {number: row for number, row in new.items() if int(number) < 100} == old
    assert {new[number]["status"] for number in ("100", "101", "102")} == {"ok"}
    assert attempts(user, second, staging=True) > 0
    assert attempts(user, second, staging=False) == sum(shard.num_runnable_rows > 0 for shard in plan.shards)
    assert rows(user, second, 103)["tag"].to_pylist() == pq.read_table(grown)["tag"].to_pylist()

    # The third night takes all from the second, which took most from the first: that one may go.
    for info in list(user.ledger(first).objects()):
        user.ledger(first).store.delete(info.key)
    third = submit(user, grown, "--reuse", second)
    assert by_prompt(rows(user, third, 103)) == new
    assert user.json("status", third)["rows_reused"] == 102
    shown = user.json("plan", str(grown), "--engine", "fake", "--keep", "tag", "--reuse", second)
    assert (shown["reused_rows"], shown["rows"]) == (102, 103)


def check_no_engine(user: User, job_id: str) -> None:
    """Check that no replica ever started: by its attempts, and by what its drivers saw over time."""
    assert attempts(user, job_id, staging=False) == 0
    histories = user.ledger(job_id).histories()
    assert histories
    for history in histories:
        assert history.engine == {}
        assert {activity for sample in history.samples for activity in sample.replicas} <= {Activity.WAITING}
        assert (history.samples[-1].gpu_s, history.losses) == (0.0, ())
    progress = user.ledger(job_id).progress()
    assert progress is not None
    assert [(each.state, each.pid, each.restarts) for each in progress.replicas] == [("waiting", 0, 0)]


def test_a_night_with_nothing_new_starts_no_replica(s3_user: User, tmp_path: Path) -> None:
    user = s3_user
    numbers = [0, *range(1, 60), 0]
    first = submit(user, write(tmp_path / "monday.parquet", numbers), "--max-error-rate", "0.1")
    again = write(tmp_path / "tuesday.parquet", numbers[::-1])
    second = submit(user, again, "--reuse", "auto", "--max-error-rate", "0.1")

    plan = user.ledger(second).plan()
    assert plan is not None
    assert (plan.num_reused_rows, plan.num_invalid_rows) == (59, 2)
    check_no_engine(user, second)
    assert by_prompt(rows(user, second, 61)) == by_prompt(rows(user, first, 61))
    status = user.json("status", second)
    assert (status["state"], status["rows_reused"]) == ("SUCCEEDED", 59)
    assert (status["rows_ok"], status["rows_error"], status["shards_committed"]) == (59, 2, len(plan.shards))
    assert status["error_codes"] == {"EMPTY_PROMPT": 2}
    assert "replica-0" not in user.run("logs", second).stdout
    # Its gates judge the rows that staging has refused.
    user.run(
        *("submit", str(again), "--engine", "fake", "--keep", "tag", "--reuse", second, "--wait", *SHARDS),
        *("--max-error-rate", "0.01", "--id", new_id("gate")),
        code=3,
    )


def test_a_driver_that_dies_over_a_job_without_work_for_an_engine(s3_user: User, tmp_path: Path) -> None:
    user = s3_user
    first = submit(user, write(tmp_path / "monday.parquet", list(range(60))))
    dataset = write(tmp_path / "tuesday.parquet", list(range(60)))
    job_id = user.submit(
        *(str(dataset), "--engine", "fake", "--keep", "tag", "--reuse", first, "--id", new_id("dies"), *SHARDS)
    )
    deadline = time.monotonic() + 60
    while user.ledger(job_id).plan() is None:
        assert time.monotonic() < deadline, user.logs(job_id)
        time.sleep(0.05)
    user.kill_driver(job_id)
    assert user.ledger(job_id).terminal() is None
    user.run("resume", job_id, "--wait")
    check_no_engine(user, job_id)
    assert by_prompt(rows(user, job_id, 60)) == by_prompt(rows(user, first, 60))


def test_a_repair_computes_what_went_wrong_on_the_cluster_and_stands_alone(s3_user: User, tmp_path: Path) -> None:
    """So many rows that staging is spread over the cluster; of 1,500 rows 15 loop and 15 are cut."""
    user, count = s3_user, 1500
    prompts = [f"prompt {n} {'LOOP' if n % 100 == 3 else ''}" for n in range(count)]
    dataset = write_prompts(tmp_path / "rows.parquet", prompts, tag=[f"rows {n}" for n in range(count)])
    settings = ("--max-tokens", "300", "--set", "engine.fake.loop_marker=LOOP")
    first = submit(user, dataset, *settings)
    before = by_prompt(rows(user, first, count))
    assert sum(row["finish_reason"] == "repetition" for row in before.values()) == 15
    assert user.json("status", first)["quality"]["finish_reasons"]["repetition"] == 15

    second = new_id("repair")
    user.run(
        *("retry", first, "--id", second, "--where", "finish_reason=repetition", "--repetition-penalty", "1.1"),
        *("--set", "engine.fake.loop_marker=NOTHING", "--wait"),
    )
    after = by_prompt(rows(user, second, count))
    assert {row["finish_reason"] for row in after.values()} == {"stop"}
    whole = [number for number, row in before.items() if row["finish_reason"] == "stop"]
    assert [after[number] for number in whole] == [before[number] for number in whole]
    status = user.json("status", second)
    assert (status["rows_reused"], status["retry_of"]) == (count - 15, [first])

    # A larger limit changes no answer that ended by itself; and the repaired job may go.
    user.run("delete", first, "--yes")
    third = submit(user, dataset, "--max-tokens", "4000", "--repetition-detection", "off", "--reuse", second)
    assert user.json("status", third)["rows_reused"] == count - 15, "those under a penalty are other answers"
    gone = user.run("results", first, code=2)
    assert "was deleted by" in gone.stderr


@pytest.mark.nightly
def test_changed_sampling_reuses_nothing_and_sampled_rows_only_on_demand(user: User, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.parquet", list(range(1, 21)))
    first = submit(user, dataset, "--temperature", "0.7")
    for arguments, expected in (
        (("--reuse", first, "--temperature", "0.7"), 0),
        (("--reuse", first, "--temperature", "0.7", "--reuse-sampled"), 20),
        (("--reuse", first, "--temperature", "0.6", "--reuse-sampled"), 0),
    ):
        plan = user.ledger(submit(user, dataset, *arguments)).plan()
        assert plan is not None
        assert plan.num_reused_rows == expected, arguments


def test_a_job_to_reuse_must_be_there_and_have_ended(user: User, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.parquet", [1, 2, 3])
    refused = user.run("submit", str(dataset), "--engine", "fake", "--reuse", "never-was", code=2)
    assert "No job never-was" in refused.stderr
    assert not list(user.ledger("x").store.list_folders())


def test_equal_rows_are_computed_once_and_all_have_the_result(user: User, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.parquet", [n % 10 + 1 for n in range(200)])
    job_id = submit(user, dataset, "--set", "engine.fake.token_s=0.01", "--keep-staged")
    found = rows(user, job_id, 200)
    assert len(set(found["generated_text"].to_pylist())) == 10
    assert all(len({str(row) for row in group}) == 1 for group in _groups(found))
    plan = user.ledger(job_id).plan()
    assert plan is not None
    assert plan.num_repeated_rows == 190
    progress = user.ledger(job_id).progress()
    assert progress is not None
    assert sum(replica.rows_done for replica in progress.replicas) <= 10 + len(plan.shards)
    assert len(list(user.ledger(job_id).store.list(f"{job_id}/{keys.FINGERPRINTS}"))) == len(plan.shards)


def _groups(table: pa.Table) -> list[list[dict[str, object]]]:
    groups: dict[str, list[dict[str, object]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["tag"], []).append({name: value for name, value in row.items() if name not in OWN})
    return list(groups.values())
