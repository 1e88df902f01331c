"""Finished rows of open shards are kept when a job is cancelled or its driver is told to stop, on real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.salvage import Salvage
from schemas import keys
from schemas.batches import BatchRequest, batch_key, job_id_of
from tests.integration.test_serve import CHAT, chat, lines, serving, wait
from tests.integration.test_serve import SLOW as SMALL_AND_SLOW
from tests.support.bounds import LOADED_S, loaded_s
from tests.support.harness import User, check_invariants, driver_pid, embedded_cluster, new_id, write_prompts

ROWS = 60
SLOW = ("--engine", "fake", "--set", "engine.fake.token_s=0.2", "--set", "engine.max_num_seqs=4", "--replicas", "2")
TWO_SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=2")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Sixty rows, of which one is empty."""
    prompts = [f"prompt {n}" for n in range(ROWS)]
    prompts[7] = ""
    return write_prompts(tmp_path / "rows.parquet", prompts)


@pytest.fixture(scope="module")
def answers(cluster_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[int, str | None]:
    """What each row comes to in a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    user = User(root=str(folder / "root"), env=cluster_env)
    prompts = [f"prompt {n}" for n in range(ROWS)]
    prompts[7] = ""
    path = write_prompts(folder / "rows.parquet", prompts)
    job_id = user.submit(str(path), "--engine", "fake", "--id", new_id("even"), *TWO_SHARDS, "--wait")
    return texts(check_invariants(user.ledger(job_id), ROWS))


def texts(table: pa.Table) -> dict[int, str | None]:
    return dict(zip(table["row_id"].to_pylist(), table["generated_text"].to_pylist(), strict=True))


def halfway(user: User, dataset: Path, name: str) -> str:
    """A job whose two shards are open and have finished rows."""
    job_id = user.submit(str(dataset), "--id", new_id(name), *SLOW, *TWO_SHARDS)
    user.progress_until(job_id, lambda p: p.rows_uncommitted >= 16 and not p.shards_committed)
    return job_id


def kept(user: User, job_id: str) -> Any:
    """What status says, after its driver's end; the results of a cancelled job say the same."""
    status = user.json("status", job_id)
    assert (status["shards_committed"], status["rows_uncommitted"]) == (0, 0)
    assert status["rows_ok"] + status["rows_error"] == status["rows_done"]
    return status


def test_a_cancelled_job_keeps_every_finished_row(
    user: User, dataset: Path, tmp_path: Path, answers: dict[int, str | None]
) -> None:
    job_id = halfway(user, dataset, "cancel")
    began = time.monotonic()
    assert user.json("cancel", job_id)["state"] == "CANCELLED"
    assert time.monotonic() - began < 25 + loaded_s()
    status = kept(user, job_id)
    assert 16 <= status["rows_done"] < ROWS
    target = tmp_path / "kept.parquet"
    done = user.run("results", job_id, str(target), "--verify")
    assert "rows finished in others" in done.stderr
    table = pq.read_table(target)
    assert len(table) == status["rows_done"]
    assert table["row_id"].to_pylist() == sorted(set(table["row_id"].to_pylist()))
    assert texts(table).items() <= answers.items()
    assert user.json("sql", job_id, "select count(*) as n from results")[0]["n"] == len(table)
    (listed,) = [entry for entry in user.json("list") if entry["job_id"] == job_id]
    assert listed["rows_done"] == status["rows_done"]
    assert "ended" in user.run("resume", job_id, code=2).stderr


@pytest.mark.parametrize("how", ["SIGTERM", "ray job stop"])
def test_a_driver_that_is_told_to_stop_leaves_nothing_to_do_again(
    user: User, dataset: Path, answers: dict[int, str | None], how: str
) -> None:
    job_id = halfway(user, dataset, "stop")
    pid = driver_pid(job_id)
    if how == "SIGTERM":
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)  # impatience changes nothing
    else:
        code = (
            "import sys; from jobs.client import BatchClient; "
            "client = BatchClient(); client.submitter().stop(sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", code, job_id], env=user.environment(), check=True, timeout=60)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert user.json("status", job_id)["state"] == "INTERRUPTED"
    before = kept(user, job_id)["rows_done"]
    assert 16 <= before < ROWS
    salvaged = Salvage(user.ledger(job_id)).counts(())
    assert sum(record.num_rows for record in salvaged.values()) == before

    user.run("resume", job_id)
    # No count goes back, not even while the new driver does not know of anything yet.
    seen = [user.json("status", job_id)["rows_done"]]
    while seen[-1] < ROWS:
        seen.append(user.json("status", job_id)["rows_done"])
        assert len(seen) < 200
    assert seen == sorted(seen)
    assert seen[0] >= before
    user.run("wait", job_id)
    ledger = user.ledger(job_id)
    assert texts(check_invariants(ledger, ROWS)) == answers
    progress = ledger.progress()
    assert progress is not None
    errors_of_staging = sum(record.num_error_rows for record in salvaged.values())
    # Valid rows are 59; those salvaged are not asked again.
    assert sum(replica.rows_done for replica in progress.replicas) <= 59 - (before - errors_of_staging)
    assert not [info.key for info in ledger.objects() if keys.SALVAGE in info.key], "they go with the staged rows"


@pytest.mark.parametrize("ends", ["cancelled", "expired"])
def test_a_batch_that_ends_early_keeps_every_answer(user: User, tmp_path: Path, ends: str) -> None:
    with serving(user, tmp_path, *SMALL_AND_SLOW, "--set", "shards.target_count=1") as server:
        client = server.client
        requests = [chat(f"row-{n}", f"question {n}") for n in range(200)]
        path = tmp_path / "requests.jsonl"
        path.write_text("".join(f"{json.dumps(each)}\n" for each in requests))
        file = client.files.create(file=path, purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        job_id = job_id_of(batch.id)
        user.progress_until(job_id, lambda p: p.rows_uncommitted >= 8)
        counts = [client.batches.retrieve(batch.id).request_counts]
        if ends == "cancelled":
            client.batches.cancel(batch.id)
        else:
            # A window is an hour at least; this one ends now.
            record = Path(user.root) / batch_key(batch.id, "request")
            request = BatchRequest.from_json(record.read_bytes())
            record.write_bytes(request.evolve(expires_at=int(time.time())).to_json())
        batch = wait(client, batch, lambda b: bool(counts.append(b.request_counts)) or b.status == ends)
        completed = [count.completed for count in counts if count]
        assert completed == sorted(completed), "what was shown as done is kept"
        answered, unanswered = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
        assert len(answered) == completed[-1] >= 8
        assert {line["error"]["code"] for line in unanswered} == {f"batch_{ends}"}
        ids = [int(line["custom_id"].removeprefix("row-")) for line in (*answered, *unanswered)]
        assert sorted(ids) == list(range(200))
        assert all(line["response"]["body"]["choices"][0]["message"]["content"] for line in answered)


def test_many_replicas_on_few_cores_start_in_steps_and_hold_up_nobody(user: User, tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "many.parquet", [f"prompt {n}" for n in range(3000)])
    slow = ("--engine", "fake", "--set", "engine.fake.token_s=0.2", *TWO_SHARDS)
    first = user.submit(str(data), "--id", new_id("many"), "--replicas", "3..200", *slow)
    try:
        user.progress_until(first, lambda p: sum(r.state == "ready" for r in p.replicas) >= 2)
        for _ in range(10):
            progress = user.ledger(first).progress()
            assert progress is not None
            starting = [r for r in progress.replicas if r.state == "loading" or r.note == "for a worker process"]
            assert len(starting) <= len(os.sched_getaffinity(0))
            time.sleep(0.3)
        began = time.monotonic()
        few = write_prompts(tmp_path / "few.parquet", ["a", "b"])
        user.submit(str(few), "--engine", "fake", "--id", new_id("second"), "--wait", timeout_s=140)
        assert time.monotonic() - began < 120 + LOADED_S
    finally:
        user.run("cancel", first)


def test_a_cluster_that_is_taken_down_lets_jobs_keep_their_finished_rows(tmp_path: Path, dataset: Path) -> None:
    with embedded_cluster(tmp_path / "state", {}) as env:
        user = User(root=str(tmp_path / "root"), env=env)
        job_id = halfway(user, dataset, "down")
        user.run("cluster", "down", "--yes")
        status = kept(user, job_id)
        assert status["state"] == "INTERRUPTED"
        assert 16 <= status["rows_done"] < ROWS
