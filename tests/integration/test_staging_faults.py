"""Staged rows that are damaged, sources of reuse that are, tasks that always die, and nothing left to compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ledger import Ledger
from schemas import keys
from tests.support.harness import User, check_invariants, embedded_cluster, new_id, write_prompts
from workers.staging.local import MAX_ROWS

pytestmark = pytest.mark.timeout(600)

SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=12")
SLOW = ("--set", "engine.fake.token_s=0.05", "--max-num-seqs", "4")


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """A cluster whose processes die where a file is put for them."""
    folder = tmp_path_factory.mktemp("failpoints")
    with embedded_cluster(tmp_path_factory.mktemp("state"), {"JOBS_FAILPOINT_DIR": str(folder)}) as env:
        yield env, folder


@pytest.fixture
def user(dying: tuple[dict[str, str], Path], tmp_path: Path) -> User:
    return User(root=str(tmp_path / "root"), env=dying[0])


def submit(user: User, dataset: Path, *arguments: str, code: int | None = 0) -> str:
    job_id = new_id()
    fake = ("--engine", "fake", "--replicas", "1", "--keep-staged")
    user.run("submit", str(dataset), *fake, "--id", job_id, *SHARDS, *arguments, code=code, timeout_s=240)
    return job_id


def spoil(path: Path, how: str) -> None:
    """Damage an object where it lies, past the store."""
    data = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "flip":
        path.write_bytes(data[:-40] + bytes([data[-40] ^ 4]) + data[-39:])  # in the footer, which has no checksum
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b""}[how])


def test_damaged_staged_rows_are_staged_again_while_the_job_goes_on(user: User, tmp_path: Path) -> None:
    job_id = submit(user, write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(120)]), *SLOW)
    ledger = user.ledger(job_id)
    # The replica may take its first shard only after the last one is staged.
    user.progress_until(job_id, lambda p: p.rows_staged == 120 and p.rows_ok > 0, what="staging and the first commit")
    waiting = sorted({shard.index for shard in ledger.plan().shards} - ledger.committed(), reverse=True)  # type: ignore[union-attr]
    staged = Path(user.root) / job_id / keys.STAGED
    for shard, how in zip(waiting, ("flip", "cut", "empty", "delete"), strict=False):
        spoil(staged / f"part-{shard:05d}.parquet", how)
    job = Path(user.root) / job_id
    attempt = next((job / keys.ATTEMPTS).glob("*/*.json"))
    spoil(attempt, "cut")
    user.run("wait", job_id, timeout_s=240)
    check_invariants(ledger, 120, damaged={str(attempt.relative_to(job))})
    assert "It is staged again" in user.logs(job_id)


def test_rows_that_cannot_be_staged_again_cost_no_other_row(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(60)])
    job_id = submit(user, dataset, *SLOW)
    ledger = user.ledger(job_id)
    user.progress_until(job_id, lambda p: p.rows_staged == 60, what="staging")
    plan = ledger.plan()
    assert plan is not None
    last = max({shard.index for shard in plan.shards} - ledger.committed())
    spoil(Path(user.root) / job_id / keys.staged(last), "empty")
    write_prompts(dataset, ["another"])
    shown = user.run("wait", job_id, code=1, timeout_s=240)
    assert ledger.committed() == {shard.index for shard in plan.shards} - {last}
    assert "INPUT_CHANGED" in shown.stdout + shown.stderr + str(user.json("status", job_id))


def test_a_staging_task_that_always_dies_ends_with_a_reason(
    user: User, dying: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    _, folder = dying
    over = threading.Event()

    def arm() -> None:
        while not over.is_set():
            (folder / "staging.before_tokenise").touch()
            time.sleep(0.02)

    threading.Thread(target=arm, daemon=True).start()
    try:
        # A small job has no such task: its driver stages it.
        job_id = submit(user, write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(MAX_ROWS + 1)]))
        user.run("wait", job_id, "--timeout", "150", code=1, timeout_s=180)
    finally:
        over.set()
        (folder / "staging.before_tokenise").unlink(missing_ok=True)
    deaths = list(folder.glob("staging.before_tokenise.hit-*"))
    assert 2 <= len(deaths) <= 8
    assert "Processes that prepared rows were lost" in user.logs(job_id)
    # It is the world's fault: the job is not ended.
    user.run("resume", job_id, "--wait", timeout_s=180)
    check_invariants(user.ledger(job_id), MAX_ROWS + 1)


def test_a_driver_that_dies_while_it_stages_is_interrupted(
    user: User, dying: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    _, folder = dying
    (folder / "staging.before_write").touch()
    job_id = submit(user, write_prompts(tmp_path / "d.parquet", ["a", "b"]))
    user.run("wait", job_id, "--timeout", "100", code=1)
    assert len(list(folder.glob("staging.before_write.hit-*"))) == 1
    assert user.json("status", job_id)["state"] == "INTERRUPTED"
    user.run("resume", job_id, "--wait", timeout_s=180)
    check_invariants(user.ledger(job_id), 2)


def committed_results(ledger: Ledger) -> list[Path]:
    return sorted((Path(ledger.store.uri) / ledger.job_id / keys.RESULTS).glob("part-*.parquet"))


@pytest.mark.parametrize(
    ("what", "how"),
    [(keys.RESULTS, "flip"), (keys.RESULTS, "delete"), (keys.FINGERPRINTS, "flip"), (keys.SPEC, "empty")],
)
def test_a_damaged_source_of_reuse_is_left_out_before_the_plan_stands(
    user: User, tmp_path: Path, what: str, how: str
) -> None:
    dataset = write_prompts(tmp_path / "d.parquet", ["", *(f"prompt {n}" for n in range(39))])
    source = submit(user, dataset, "--wait")
    base = Path(user.root) / source
    spoil(base / what if what == keys.SPEC else sorted((base / what).glob("part-*.parquet"))[-1], how)
    shown = user.run("plan", str(dataset), "--engine", "fake", "--reuse", source, *SHARDS)
    assert ("Warning" in shown.stderr) or what == keys.RESULTS, shown.stderr
    job_id = submit(user, dataset, "--reuse", source, "--wait")
    check_invariants(user.ledger(job_id), 40)
    plan = user.ledger(job_id).plan()
    assert plan is not None
    assert plan.num_reused_rows < 39
    assert source in user.logs(job_id)


def test_a_source_that_is_damaged_later_is_named_with_a_way_on(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(40)])
    source = submit(user, dataset, "--wait")
    grown = write_prompts(tmp_path / "more.parquet", [f"prompt {n}" for n in range(60)])
    job_id = submit(user, grown, "--reuse", source, "--wait")
    # As if its driver had died right after it made the plan.
    base = Path(user.root) / job_id
    for path in (base / "_job/terminal.json", base / "_SUCCESS", *committed_results(user.ledger(job_id))):
        path.unlink()
        path.with_name(f".{path.name}.meta.json").unlink()
    sound = committed_results(user.ledger(source))[0]
    kept = sound.read_bytes()
    spoil(sound, "flip")
    shown = user.run("resume", job_id, "--wait", code=None, timeout_s=180)
    assert shown.returncode not in (0, 124)
    assert user.json("status", job_id)["state"] == "INTERRUPTED"
    said = user.logs(job_id)
    assert f"Results of job {source}" in said
    assert f"--reuse {job_id}" in said
    sound.write_bytes(kept)
    user.run("resume", job_id, "--wait", timeout_s=180)
    check_invariants(user.ledger(job_id), 60)


@pytest.mark.parametrize("prompts", [[""], ["", "", ""], ["a"], ["a", "a", "a"]])
def test_jobs_of_next_to_nothing(user: User, tmp_path: Path, prompts: list[str]) -> None:
    """All rows invalid, all the same, one; and then all of them taken over."""
    dataset = write_prompts(tmp_path / "d.parquet", prompts)
    rows, fake = len(prompts), ("--engine", "fake")
    assert user.json("plan", str(dataset), *fake)["rows"] == rows
    first = submit(user, dataset, "--wait", "--set", "max_error_rate=1.0")
    reuse = ("--reuse", first)
    planned: Any = user.json("plan", str(dataset), *fake, *reuse)
    second = submit(user, dataset, *reuse, "--wait", "--set", "max_error_rate=1.0")
    for job_id in (first, second):
        check_invariants(user.ledger(job_id), rows)
        for command in (
            ("status", job_id),
            ("report", job_id, str(tmp_path / "report.html")),
            ("results", job_id),
        ):
            user.run(*command)
        user.run("watch", job_id)
    plan = user.ledger(second).plan()
    assert plan is not None
    valid = sum(1 for prompt in prompts if prompt)
    assert planned["reused_rows"] == plan.num_reused_rows == valid
    assert planned["shards"] >= 1


def test_every_row_is_taken_over_and_none_has_to_be_computed(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(30)], tag=list(map(str, range(30))))
    first = submit(user, dataset, "--wait")
    planned: Any = user.json("plan", str(dataset), "--engine", "fake", "--reuse", first, "--keep", "tag")
    assert (planned["reused_rows"], planned["output_tokens"]) == (30, 0)
    user.run("plan", str(dataset), "--engine", "fake", "--reuse", first, "--tokens-per-s", "10", "--gpu-price", "1")
    second = submit(user, dataset, "--reuse", first, "--keep", "tag", "--wait")
    table = check_invariants(user.ledger(second), 30)
    old = pa.concat_tables([pq.read_table(path) for path in committed_results(user.ledger(first))]).sort_by("row_id")
    assert table["generated_text"].to_pylist() == old["generated_text"].to_pylist()
    assert table["tag"].to_pylist() == [str(n) for n in range(30)]
