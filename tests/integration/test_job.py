"""Whole jobs with the `fake` engine, as a user sees them: commands in, objects and exit codes out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from jobs.staged import Staged
from schemas import keys
from tests.support.bounds import LOADED_S
from tests.support.harness import User, check_invariants, driver_pid, kill, new_id, write_prompts
from tests.support.samples import write_chats

SMALL_SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=20")
SLOW = ("--set", "engine.fake.token_s=0.05", "--max-num-seqs", "4")


def test_four_thousand_chats_over_s3_come_back_once_in_order_with_kept_columns(s3_user: User, tmp_path: Path) -> None:
    dataset = write_chats(tmp_path / "chats.parquet")
    job_id = s3_user.submit(str(dataset), "--engine", "fake", "--replicas", "2", "--keep", "package,language")
    s3_user.run("wait", job_id, "--timeout", "100")
    table = check_invariants(s3_user.ledger(job_id), 4000)

    source = pq.read_table(dataset)
    for name in ("custom_id", "package", "language"):
        assert table[name].to_pylist() == source[name].to_pylist()
    assert set(table["status"].to_pylist()) == {"ok"}
    assert s3_user.ledger(job_id).store.get(f"{job_id}/{keys.SUCCESS}") is not None
    assert not Staged(s3_user.ledger(job_id)).shards()
    status = s3_user.json("status", job_id)
    assert (status["state"], status["rows_ok"], status["rows_error"]) == ("SUCCEEDED", 4000, 0)


def test_submit_prints_the_id_alone_with_q_and_the_next_commands_without(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "few.parquet", ["one", "two"])
    quiet = user.run("submit", str(dataset), "--engine", "fake", "-q")
    assert quiet.stdout.startswith("few-")
    assert quiet.stdout.count("\n") == 1
    loud = user.run("submit", str(dataset), "--engine", "fake", "--id", new_id(), "--wait")
    assert "/#/jobs/" in loud.stdout
    assert "jobs results" in loud.stderr


def test_bad_rows_become_error_rows_and_the_others_are_answered(user: User, tmp_path: Path) -> None:
    prompts = ["fine", "", None, "x" * 50_000, "FAIL here", "also fine"]
    params = [None, None, None, None, None, '{"temperature": -1}']
    dataset = write_prompts(tmp_path / "bad.parquet", prompts, sampling_params=params)
    done = user.run(
        *("submit", str(dataset), "--engine", "fake", "--wait", "--id", "bad-rows"),
        *("--set", "engine.fake.fail_marker=FAIL", "--max-model-len", "1000"),
        code=3,
    )
    table = check_invariants(user.ledger("bad-rows"), 6)
    assert table["error_code"].to_pylist() == [
        None,
        "EMPTY_PROMPT",
        "EMPTY_PROMPT",
        "CONTEXT_LENGTH_EXCEEDED",
        "ENGINE_ERROR",
        "INVALID_SAMPLING",
    ]
    assert table["status"].to_pylist() == ["ok", "error", "error", "error", "error", "error"]
    assert table["attempts"].to_pylist() == [1, 0, 0, 0, 1, 0]
    assert not any("xxx" in (message or "") for message in table["error_message"].to_pylist())
    assert "5" in done.stderr


@pytest.mark.nightly
def test_the_same_job_gives_the_same_bytes_on_another_cluster_size(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "same.parquet", [f"prompt {n}" for n in range(300)])
    for job_id, replicas in (("first", "1"), ("second", "3")):
        user.run(
            "submit", str(dataset), "--engine", "fake", "--id", job_id, "--replicas", replicas, *SMALL_SHARDS, "--wait"
        )
        check_invariants(user.ledger(job_id), 300)
    one, other = user.ledger("first"), user.ledger("second")
    assert one.committed() == other.committed()
    assert len(one.committed()) >= 10
    assert all(one.read_result(shard) == other.read_result(shard) for shard in one.committed())


def test_a_killed_replica_and_a_killed_driver_lose_nothing_and_redo_nothing(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "kill.parquet", [f"prompt {n}" for n in range(400)])
    job_id = user.submit(
        str(dataset), "--engine", "fake", "--replicas", "2", "--id", new_id("kill"), *SMALL_SHARDS, *SLOW
    )

    progress = user.progress_until(job_id, lambda p: p.shards_committed >= 2 and any(r.pid for r in p.replicas))
    kill(next(replica.pid for replica in progress.replicas if replica.pid))
    user.progress_until(job_id, lambda p: any(r.restarts for r in p.replicas if r.state == "ready"), what="new replica")

    committed = {shard: user.ledger(job_id).read_result(shard) for shard in user.ledger(job_id).committed()}
    assert 0 < len(committed) < 15
    user.kill_driver(job_id)
    before = {info.key: info.modified_at for info in user.ledger(job_id).objects() if "/results/" in info.key}

    user.run("resume", job_id, "--wait")
    table = check_invariants(user.ledger(job_id), 400)
    assert table["custom_id"].to_pylist() == [f"id-{n}" for n in range(400)]
    after = {info.key: info.modified_at for info in user.ledger(job_id).objects() if "/results/" in info.key}
    assert all(after[key] == at for key, at in before.items())
    assert all(user.ledger(job_id).read_result(shard) == data for shard, data in committed.items())


def test_cancel_ends_the_job_soon_and_keeps_what_is_committed(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "cancel.parquet", [f"prompt {n}" for n in range(400)])
    job_id = user.submit(str(dataset), "--engine", "fake", "--id", new_id("cancel"), *SMALL_SHARDS, *SLOW)
    progress = user.progress_until(job_id, lambda p: p.shards_committed >= 1 and any(r.pid for r in p.replicas))
    replica = next(r.pid for r in progress.replicas if r.pid)
    began = time.monotonic()
    assert user.json("cancel", job_id)["state"] == "CANCELLED"
    while Path(f"/proc/{replica}").exists():
        assert time.monotonic() - began < 15 + LOADED_S
        time.sleep(0.2)
    with pytest.raises(AssertionError, match="no driver"):
        driver_pid(job_id)
    assert user.ledger(job_id).committed()
    assert user.json("status", job_id)["state"] == "CANCELLED"
    assert "ended" in user.run("resume", job_id, code=2).stderr


def test_the_same_id_attaches_with_the_same_spec_and_conflicts_with_another(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "attach.parquet", ["a", "b"])
    arguments = ("submit", str(dataset), "--engine", "fake", "--id", "attach")
    user.run(*arguments, "--wait")
    first = {info.key: info.modified_at for info in user.ledger("attach").objects()}
    again = user.run(*arguments, "--wait")
    assert "attached" in again.stderr
    assert {info.key: info.modified_at for info in user.ledger("attach").objects()} == first
    assert "different spec" in user.run(*arguments, "--temperature", "0.5", code=2).stderr


def test_input_that_changes_between_attempts_is_noticed(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "change.parquet", [f"prompt {n}" for n in range(200)])
    job_id = user.submit(str(dataset), "--engine", "fake", "--id", new_id("change"), *SMALL_SHARDS, *SLOW)
    user.progress_until(job_id, lambda p: p.shards_committed >= 1)
    user.kill_driver(job_id)
    ledger = user.ledger(job_id)
    Staged(ledger).delete([max(Staged(ledger).shards())])
    write_prompts(dataset, ["something else"] * 200)
    user.run("resume", job_id, "--wait", code=1)
    terminal = ledger.terminal()
    assert terminal is not None
    assert terminal.state == "FAILED"
    assert terminal.code == "INPUT_CHANGED"


def test_logs_show_driver_and_replicas_and_no_prompt_and_outlive_the_cluster(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "logs.parquet", ["canary-of-the-prompt"] * 3)
    user.run("submit", str(dataset), "--engine", "fake", "--id", "logs", "--wait")
    user.driver_ended("logs")
    text = user.run("logs", "logs").stdout
    assert "replica-0 is ready" in text
    assert "replica-0  | " in text, "a replica's own lines"
    assert "SUCCEEDED" in text.splitlines()[-1]
    everything = user.run("logs", "logs", "--all").stdout
    assert "canary" not in text + everything
    of_replica = [line for line in text.splitlines() if line.startswith("replica-0")]
    assert user.run("logs", "logs", "--replica", "0").stdout.splitlines() == of_replica
    assert user.run("logs", "logs", "--tail", "1").stdout == text.splitlines(keepends=True)[-1]
    assert user.run("logs", "logs", "--level", "error").stdout == ""
    elsewhere = User(root=user.root, env={"JOBS_STATE_DIR": str(tmp_path / "another machine")})
    assert elsewhere.run("logs", "logs").stdout == text
    assert elsewhere.run("logs", "logs", "-f", "--tail", "1").stdout == text.splitlines(keepends=True)[-1]
    assert "went with the cluster" in elsewhere.run("logs", "logs", "--all").stderr


def test_results_are_found_by_other_tools(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "tools.parquet", ["a", "b", "c"])
    user.run("submit", str(dataset), "--engine", "fake", "--id", "tools", "--wait")
    table = pyarrow.dataset.dataset(f"{user.root}/tools/results").to_table()
    assert len(table) == 3
    manifest = json.loads(user.ledger("tools").store.get("tools/_SUCCESS") or b"")
    assert manifest["num_rows"] == 3


def test_a_job_that_crosses_a_gate_keeps_its_results_and_says_which_with_numbers(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "gate.parquet", [f"prompt {n}" for n in range(20)])
    ended = user.run(
        *("submit", str(dataset), "--engine", "fake", "--id", "gate", "--wait"),
        *("--max-tokens", "4", "--max-length-finish-rate", "0.1", "--max-empty-rate", "0"),
        code=3,
    )
    said = "20 of 20 answers were cut at their token limit (100 %; max_length_finish_rate allows at most 10 %)"
    assert said in ended.stderr
    table = check_invariants(user.ledger("gate"), 20)
    assert set(table["finish_reason"].to_pylist()) == {"length"}
    assert user.ledger("gate").store.get(f"gate/{keys.SUCCESS}") is None
    assert said in user.run("status", "gate").stdout
    status = user.json("status", "gate", "--exit-status", code=3)
    assert [gate["gate"] for gate in status["crossed_gates"]] == ["max_length_finish_rate"]
    assert user.run("results", "gate", "--failed").stdout == ""
    assert user.run("results", "gate").stdout.count("\n") == 20
    assert said in user.logs("gate")
    # The record is there: whoever comes later comes to the same end.
    user.run("resume", "gate", "--wait", code=3)
    assert user.ledger("gate").store.get(f"gate/{keys.SUCCESS}") is None


@pytest.mark.nightly
def test_jobs_of_one_name_under_two_roots_do_not_meet(user: User, s3_user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "two.parquet", [f"prompt {n}" for n in range(40)])
    job_id = new_id("twins")
    slow = (
        "--id",
        job_id,
        "--engine",
        "fake",
        *SMALL_SHARDS,
        "--set",
        "engine.fake.token_s=0.2",
        "--max-num-seqs",
        "2",
    )
    for each in (user, s3_user):
        each.submit(str(dataset), *slow)
        each.progress_until(job_id, lambda p: p.shards_committed >= 1, what="commit")
    user.run("cancel", job_id)
    assert user.json("status", job_id)["state"] == "CANCELLED"
    s3_user.run("wait", job_id, "--timeout", "90")
    check_invariants(s3_user.ledger(job_id), 40)
    assert "CANCELLED" not in s3_user.run("logs", job_id).stdout
