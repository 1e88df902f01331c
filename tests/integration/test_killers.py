"""Rows that kill, hang or confuse the engine cost themselves only; an engine that is broken fails the job and says why.

Jobs of the `fake` engine on the session's cluster, two replicas.
"""

from __future__ import annotations

from math import ceil, log2
from pathlib import Path

import pytest

from jobs.ledger import Ledger
from tests.support.harness import User, check_invariants, new_id, write_prompts

pytestmark = pytest.mark.timeout(900)

FAKE = ("--engine", "fake", "--replicas", "2", "--max-error-rate", "1")
SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=6")
MARKERS = [
    *("--set", "engine.fake.crash_marker=CRASH", "--set", "engine.fake.exit_marker=EXIT"),
    *("--set", "engine.fake.dead_marker=DEAD", "--set", "engine.fake.memory_marker=MEMORY"),
    *("--set", "engine.fake.hang_marker=HANG", "--set", "engine.fake.freeze_marker=FREEZE"),
    *("--set", "engine.fake.raise_marker=RAISE", "--set", "engine.fake.nonsense_marker=NONSENSE"),
    *("--set", "engine.stall_timeout_s=4"),
]
CODES = {
    **dict.fromkeys(("CRASH", "EXIT", "DEAD", "MEMORY"), "ENGINE_CRASH"),
    **dict.fromkeys(("HANG", "FREEZE"), "TIMEOUT"),
    **dict.fromkeys(("RAISE", "NONSENSE"), "ENGINE_ERROR"),
}


def prompts_with(bad: dict[int, str], count: int = 96) -> list[str]:
    return [f"{bad.get(n, 'prompt')} {n}" for n in range(count)]


def deaths_of(ledger: Ledger) -> int:
    """Replicas that were replaced."""
    progress = ledger.progress()
    assert progress is not None
    return sum(replica.restarts for replica in progress.replicas)


@pytest.mark.nightly
def test_every_kind_of_bad_row_costs_itself_only(user: User, tmp_path: Path) -> None:
    bad = {3: "CRASH", 20: "HANG", 21: "RAISE", 40: "EXIT", 57: "MEMORY", 77: "DEAD", 95: "NONSENSE"}
    dataset = write_prompts(tmp_path / "bad.parquet", prompts_with(bad))
    job_id = new_id("killers")
    user.run("submit", str(dataset), "--id", job_id, *FAKE, *SHARDS, *MARKERS, "--wait", timeout_s=280)
    ledger = user.ledger(job_id)
    table = check_invariants(ledger, 96)
    codes = dict(enumerate(table["error_code"].to_pylist()))
    assert {row: code for row, code in codes.items() if code} == {row: CODES[kind] for row, kind in bad.items()}

    # One death per level of halving and killer, one per killer over its whole shard, and each shard's first strikes:
    # two if it was copied.
    plan = ledger.plan()
    assert plan is not None
    killers = sum(CODES[kind] != "ENGINE_ERROR" for kind in bad.values())
    largest = max(shard.num_rows for shard in plan.shards)
    assert deaths_of(ledger) <= 3 * killers + killers * ceil(log2(largest))
    assert {row.code for row in ledger.quarantined()} == {"ENGINE_CRASH", "TIMEOUT"}
    assert len(ledger.quarantined()) == killers

    # The other rows are what they are in a job where nothing is wrong with any.
    healthy_id = new_id("healthy")
    user.run("submit", str(dataset), "--id", healthy_id, *FAKE, *SHARDS, "--wait")
    healthy = check_invariants(user.ledger(healthy_id), 96)
    keep = [row for row in range(96) if row not in bad]
    assert table.take(keep).equals(healthy.take(keep))


@pytest.mark.nightly
def test_what_was_found_is_known_to_the_next_driver_and_gives_the_same_bytes(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "again.parquet", prompts_with({9: "CRASH", 60: "CRASH"}, 64))
    slow = ("--set", "engine.fake.token_s=0.05", "--max-num-seqs", "4", "--set", "shards.target_count=4")
    job_id = user.submit(str(dataset), "--id", new_id("again"), *FAKE, *SHARDS, *slow, *MARKERS)
    ledger = user.ledger(job_id)
    user.progress_until(job_id, lambda _: bool(ledger.quarantined()), timeout_s=120, what="quarantine")
    user.kill_driver(job_id)
    known = {(row.shard, row.place) for row in ledger.quarantined()}
    before = {attempt.attempt_id for attempt in ledger.attempts()}
    left = {row.shard for row in ledger.quarantined()} - ledger.committed()
    user.run("resume", job_id, "--wait", timeout_s=200)
    table = check_invariants(ledger, 64)
    assert [row for row, code in enumerate(table["error_code"].to_pylist()) if code] == [9, 60]
    for shard in left - ({row.shard for row in ledger.quarantined() if (row.shard, row.place) not in known}):
        tries = [a for a in ledger.attempts() if a.shard == shard and a.attempt_id not in before]
        assert [a.probe for a in tries] == [False], "the killer of this shard was known"

    undisturbed = new_id("undisturbed")
    user.run("submit", str(dataset), "--id", undisturbed, *FAKE, *SHARDS, *slow, *MARKERS, "--wait", timeout_s=200)
    for shard in ledger.committed():
        assert ledger.read_result(shard) == user.ledger(undisturbed).read_result(shard)


@pytest.mark.nightly
def test_a_process_that_freezes_is_ended_and_its_row_found(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "freeze.parquet", prompts_with({2: "FREEZE"}, 8))
    job_id = new_id("freeze")
    user.run("submit", str(dataset), "--id", job_id, *FAKE, *MARKERS, "--wait", timeout_s=200)
    table = check_invariants(user.ledger(job_id), 8)
    assert table["error_code"].to_pylist() == [None, None, "TIMEOUT", *[None] * 5]


def test_an_engine_that_dies_of_everything_fails_the_job_with_its_own_last_lines(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "broken.parquet", ["canary-of-the-prompt EXIT"] * 40)
    job_id = new_id("broken")
    done = user.run("submit", str(dataset), "--id", job_id, *FAKE, *SHARDS, *MARKERS, "--wait", code=1)
    terminal = user.ledger(job_id).terminal()
    assert terminal is not None
    assert terminal.state == "FAILED"
    assert terminal.code == "ENGINE_DIED"
    assert "answered no row at all" in terminal.reason
    for text in (terminal.reason, done.stderr, user.run("status", job_id, code=None).stdout):
        assert "CUDA error: an illegal memory access" in text
        assert "canary" not in text
    assert deaths_of(user.ledger(job_id)) <= 10


def test_an_engine_that_does_not_start_says_why(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "start.parquet", ["a", "b"])
    job_id = new_id("start")
    done = user.run(
        *("submit", str(dataset), "--id", job_id, *FAKE, "--wait"),
        *("--set", "engine.fake.start_error=no kernel image for sm_61, password=hunter2-hunter2"),
        code=1,
    )
    terminal = user.ledger(job_id).terminal()
    assert terminal is not None
    assert terminal.state == "FAILED"
    assert terminal.code == "ENGINE_START_FAILED"
    assert "no kernel image for sm_61" in terminal.reason
    assert "no kernel image for sm_61" in done.stderr
    assert "hunter2" not in terminal.reason


@pytest.mark.parametrize("marker", [pytest.param("HANG", marks=pytest.mark.nightly), "FREEZE"])
def test_cancel_ends_a_hung_engine_too(user: User, tmp_path: Path, marker: str) -> None:
    from tests.integration.test_faults import replicas, wait_until_empty

    dataset = write_prompts(tmp_path / "hung.parquet", prompts_with({0: marker}, 8))
    markers = [value.replace("stall_timeout_s=4", "stall_timeout_s=600") for value in MARKERS]
    job_id = user.submit(str(dataset), "--id", new_id("hung"), *FAKE, *markers)
    ledger = user.ledger(job_id)
    user.progress_until(job_id, lambda _: bool(list(ledger.attempts())), what="work")
    assert user.json("cancel", job_id)["state"] == "CANCELLED"
    assert not wait_until_empty(lambda: replicas(ledger), 15)
