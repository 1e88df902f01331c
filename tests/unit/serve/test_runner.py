"""Batches after the end of their jobs: which files they get, whoever writes them and how often."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jobs.serve.runner as runner_module
from jobs.ledger import Ledger
from jobs.serve.batches import Batches, Standing
from jobs.serve.files import Files
from jobs.serve.leftovers import KEPT_S
from jobs.serve.outputs import EXPIRED_BY
from jobs.serve.runner import SALVAGE_S, BatchRunner
from jobs.settings import Settings
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.tombstones import find_tombstone
from schemas.batches import Accepted, BatchRequest, CancelRequest, Outcome, batch_key
from schemas.records import Cancelled, Failed, Progress
from tests.support.bounds import LOADED_S
from tests.unit.results.ledgers import is_error, make_job, salvage, spec_of, succeed
from tests.unit.serve.conftest import BASE

ROWS = 60
SHARDS = [list(range(i, ROWS, 3)) for i in range(3)]
BATCH = "batch_1"


@pytest.fixture
def store(root: Path) -> ObjectStore:
    return open_store(str(root))


def runner(store: ObjectStore) -> BatchRunner:
    return BatchRunner(Settings(root=store.uri), BASE, "demo")


def job(store: ObjectStore, *, commit: Sequence[int] | None = None, window_s: float = 3600) -> Ledger:
    """A batch whose job has committed some shards."""
    files, batches, now = Files(store), Batches(store), int(time.time())
    writer = files.writer("file-1")
    for n in range(ROWS):
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
        line = {"custom_id": f"id-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        writer.write(json.dumps(line).encode() + b"\n")
    files.publish(writer.close(filename="in.jsonl", purpose="batch", created_at=now))
    request = BatchRequest(
        id=BATCH,
        input_file_id="file-1",
        endpoint="/v1/chat/completions",
        completion_window="1h",
        expires_at=int(now + window_s),
        created_at=now,
    )
    batches.write(BATCH, "request", request)
    batches.write(BATCH, "accepted", Accepted(spec=spec_of(), model="demo", total=ROWS, at=now))
    return make_job(store, SHARDS, commit=commit, job_id="batch-1")


def test_the_job_of_a_batch_goes_with_its_answers(store: ObjectStore) -> None:
    ledger, now = job(store), int(time.time())
    succeed(ledger)
    request = Batches(store).read(BATCH, "request", BatchRequest)
    assert request is not None
    store.put(batch_key(BATCH, "request"), request.evolve(output_expires_after_s=3600).to_json())
    done = advance(store).outcome
    assert done is not None
    current = runner(store)
    for _ in range(2):
        current.clear_leftovers()
        assert ledger.created_at() is not None, "its answers have not expired"
    store.put(batch_key(BATCH, "done"), done.evolve(at=now - 3600 - int(KEPT_S) - 9).to_json())
    current.clear_leftovers()
    assert [info.key for info in ledger.objects()] == ["batch-1/_job/tombstone.json"]
    tombstone = find_tombstone(store, "batch-1")
    assert tombstone is not None
    assert (tombstone.by, tombstone.reason) == ("jobs serve", "output_expires_after of its batch")
    standing = Batches(store).standing(BATCH)
    assert standing.status == "completed"
    assert Batches(store).show(standing).request_counts.total == ROWS
    runner(store).clear_leftovers()


def advance(store: ObjectStore, steps: int = 5) -> Standing:
    """Let a server carry the batch on until it has ended."""
    current = runner(store)
    for _ in range(steps):
        if current.advance(BATCH):
            return Batches(store).standing(BATCH)
    raise AssertionError(f"the batch is {Batches(store).standing(BATCH).status}")


def lines(store: ObjectStore, kind: str) -> list[dict[str, Any]]:
    files = Files(store)
    file = files.find(f"file-1-{kind}")
    assert file is not None
    return [json.loads(line) for _, line in files.lines(file)]


def check_files(store: ObjectStore, committed: Sequence[int], code: str | None) -> None:
    """Every request is in exactly one of the two files, in order."""
    done = sorted(row for shard in committed for row in SHARDS[shard])
    good = [row for row in done if not is_error(row)]
    assert [line["custom_id"] for line in lines(store, "output")] == [f"id-{row}" for row in good]
    bad = lines(store, "errors")
    assert [line["custom_id"] for line in bad] == [f"id-{row}" for row in range(ROWS) if row not in good]
    for line in bad:
        row = int(line["custom_id"].removeprefix("id-"))
        if row in done:
            assert line["response"]["body"]["error"]["code"] == "empty_prompt"
        else:
            assert (line["response"], line["error"]["code"]) == (None, code)


def counts(standing: Standing) -> tuple[str, int, int, int]:
    assert standing.outcome is not None
    outcome = standing.outcome
    return outcome.status, outcome.total, outcome.completed, outcome.failed


def test_success(store: ObjectStore) -> None:
    succeed(job(store))
    assert Batches(store).standing(BATCH).status == "finalizing"
    assert counts(advance(store)) == ("completed", 60, 51, 9)
    check_files(store, [0, 1, 2], None)
    assert all(line["response"]["body"]["model"] == "demo" for line in lines(store, "output"))


def test_cancelled_halfway_keeps_the_answers(store: ObjectStore) -> None:
    job(store, commit=[1])
    Batches(store).write(BATCH, "cancel", CancelRequest(at=1))
    assert Batches(store).standing(BATCH).status == "cancelling"
    standing = advance(store)
    assert counts(standing) == ("cancelled", 60, 17, 43)
    check_files(store, [1], "batch_cancelled")
    shown = Batches(store).show(standing)
    assert shown.cancelling_at == 1
    assert shown.cancelled_at is not None
    assert shown.completed_at is None


def test_the_window_ends(store: ObjectStore) -> None:
    ledger = job(store, commit=[0, 2], window_s=-1)
    assert counts(advance(store)) == ("expired", 60, 34, 26)
    check_files(store, [0, 2], "batch_expired")
    assert ledger.terminal() == Cancelled(by=EXPIRED_BY)


def test_a_failed_job_says_why_and_keeps_the_answers(store: ObjectStore) -> None:
    job(store, commit=[2]).end(Failed(code="ENGINE_DIED", reason="The engine died."), writer="test")
    standing = advance(store)
    assert counts(standing) == ("failed", 60, 17, 43)
    check_files(store, [2], "batch_failed")
    errors = Batches(store).show(standing).errors
    assert errors is not None
    assert [(error.code, error.message) for error in errors.data] == [("engine_died", "The engine died.")]


def test_finished_rows_of_open_shards_are_answers_too(store: ObjectStore) -> None:
    ledger = job(store, commit=[1])
    salvage(ledger, 0, [0, 6, 9], "a")
    salvage(ledger, 0, [0, 24], "b")
    salvage(ledger, 1, [1], "a")
    ledger.end(Cancelled(by=EXPIRED_BY), writer="test")
    assert counts(advance(store)) == ("expired", 60, 20, 40)
    kept = sorted([*SHARDS[1], 0, 6, 9, 24])
    good = [row for row in kept if not is_error(row)]
    assert [line["custom_id"] for line in lines(store, "output")] == [f"id-{row}" for row in good]
    bad = {line["custom_id"]: line for line in lines(store, "errors")}
    assert bad.keys() == {f"id-{row}" for row in range(ROWS) if row not in good}
    for row in range(ROWS):
        if row not in kept:
            assert bad[f"id-{row}"]["error"]["code"] == "batch_expired"


@pytest.mark.parametrize("phase", ["running", "ended"])
def test_the_files_wait_for_the_drivers_end_but_not_for_ever(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, phase: Any
) -> None:
    ledger = job(store, commit=[1])
    at = "2026-03-01T02:00:00+00:00"
    said = Progress(driver="elsewhere", updated_at=at, started_at=at, phase="running", rows_ok=17, rows_salvaged=0)
    ledger.write_progress(said)
    ledger.end(Cancelled(by="ada"), writer="test")
    current, now = runner(store), SimpleNamespace(s=1000.0)
    monkeypatch.setattr(runner_module, "time", SimpleNamespace(monotonic=lambda: now.s, time=time.time))
    assert not current.advance(BATCH)
    now.s += SALVAGE_S - 1
    assert not current.advance(BATCH)
    # Its replicas have kept two rows, and then it has said so; or nobody has heard of it again.
    salvage(ledger, 0, [0, 6], "a")
    ledger.write_progress(said.evolve(phase=phase))
    if phase == "running":
        assert not current.advance(BATCH)
        now.s += 2
    assert current.advance(BATCH)
    assert counts(Batches(store).standing(BATCH))[2] == 17 + 2


def test_nothing_committed_and_the_input_gone(store: ObjectStore) -> None:
    job(store, commit=[]).end(Cancelled(by="ada"), writer="test")
    files = Files(store)
    file = files.find("file-1")
    assert file is not None
    files.delete(file)
    standing = advance(store)
    assert counts(standing) == ("cancelled", 60, 0, 0)
    shown = Batches(store).show(standing)
    assert (shown.output_file_id, shown.error_file_id) == (None, None)


def test_cancelled_before_there_is_a_job(store: ObjectStore) -> None:
    batches, now = Batches(store), int(time.time())
    request = BatchRequest(
        id=BATCH, input_file_id="file-9", endpoint="/v1/completions", completion_window="1h",
        expires_at=now + 99, created_at=now,
    )  # fmt: skip
    batches.write(BATCH, "request", request)
    assert batches.cancel(BATCH).status == "cancelling"
    assert advance(store).status == "cancelled"
    assert batches.ledger(BATCH).terminal() is not None, "no server can start a driver any more"


def test_an_input_file_that_is_deleted_before_validation(store: ObjectStore) -> None:
    batches, now = Batches(store), int(time.time())
    request = BatchRequest(
        id=BATCH, input_file_id="file-9", endpoint="/v1/completions", completion_window="1h",
        expires_at=now + 99, created_at=now,
    )  # fmt: skip
    batches.write(BATCH, "request", request)
    standing = advance(store)
    assert standing.outcome is not None
    assert [error.code for error in standing.outcome.errors] == ["file_not_found"]


def test_two_servers_and_a_killed_one_agree(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(job(store))
    with monkeypatch.context() as patched:
        # Killed after the outcome is decided, before its files exist.
        def killed(self: Files, file: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(Files, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            runner(store).advance(BATCH)
    assert Batches(store).standing(BATCH).status == "finalizing"
    decided = Batches(store).read(BATCH, "outcome", Outcome)
    assert decided is not None
    assert Files(store).find("file-1-output") is None
    assert advance(store).outcome == decided
    assert advance(store).outcome == decided
    assert Files(store).find("file-1-output") == decided.output
    check_files(store, [0, 1, 2], None)


def request_of(model: str | None, **changes: Any) -> BatchRequest:
    now = int(time.time())
    fields = {"id": BATCH, "input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    return BatchRequest.model_validate({**fields, "expires_at": now + 99, "created_at": now, "model": model, **changes})


@pytest.mark.parametrize("model", ["demo", None])
def test_a_batch_of_this_servers_model_or_of_an_older_server_is_checked(store: ObjectStore, model: str | None) -> None:
    Batches(store).write(BATCH, "request", request_of(model))
    assert counts(advance(store))[0] == "failed", "its file is missing"


def test_a_batch_of_another_model_is_left_alone_until_its_time_is_over(store: ObjectStore) -> None:
    Batches(store).write(BATCH, "request", request_of("other"))
    assert not any(runner(store).advance(BATCH) for _ in range(3))
    assert Batches(store).standing(BATCH).status == "validating"
    assert Batches(store).show(Batches(store).standing(BATCH)).model == "other"
    Batches(store).cancel(BATCH)
    assert not runner(store).advance(BATCH), "its own server ends it"


@pytest.mark.parametrize(("cancelled", "status"), [(True, "cancelled"), (False, "expired")])
def test_a_batch_whose_model_no_server_has_any_more_ends_all_the_same(
    store: ObjectStore, cancelled: bool, status: str
) -> None:
    Batches(store).write(
        BATCH, "request", request_of("gone", expires_at=int(time.time()) + (999 if cancelled else -99))
    )
    if cancelled:
        Batches(store).write(BATCH, "cancel", CancelRequest(at=int(time.time()) - 99))
    assert counts(advance(store))[0] == status


def test_a_job_of_another_model_is_neither_started_nor_written(store: ObjectStore) -> None:
    succeed(job(store))
    other = BatchRunner(Settings(root=store.uri), BASE, "other")
    assert not other.advance(BATCH)
    assert counts(advance(store))[0] == "completed"
    assert other.advance(BATCH), "what has ended has ended for all"


def test_usage_is_that_of_the_answers(store: ObjectStore) -> None:
    succeed(job(store))
    shown = Batches(store).show(advance(store))
    bodies = [line["response"]["body"]["usage"] for line in lines(store, "output")]
    assert shown.usage is not None
    assert shown.usage.input_tokens == sum(each["prompt_tokens"] for each in bodies) > 0
    assert shown.usage.output_tokens == sum(each["completion_tokens"] for each in bodies) > 0
    assert shown.usage.total_tokens == shown.usage.input_tokens + shown.usage.output_tokens


def test_a_failed_job_shows_no_path_and_no_command(store: ObjectStore) -> None:
    reason = "The model /models/x is not there. It was there before. See: jobs logs batch-1"
    job(store, commit=[]).end(Failed(code="INVALID_MODEL", reason=reason), writer="test")
    errors = Batches(store).show(advance(store)).errors
    assert errors is not None
    assert [error.message for error in errors.data] == ["It was there before."]


def test_batches_that_wait_hold_up_no_other(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty whose drivers do not end, and forty whose cluster does not answer; then one that is wrong."""
    job(store, commit=[])
    release = threading.Event()
    monkeypatch.setattr(BatchRunner, "_drive", lambda *_: release.wait(60))
    batches = Batches(store)
    accepted = batches.read(BATCH, "accepted", Accepted)
    assert accepted is not None
    for n in range(80):
        batches.write(f"batch_w{n}", "request", request_of("demo", id=f"batch_w{n}", expires_at=int(time.time()) + 999))
        batches.write(f"batch_w{n}", "accepted", accepted)
        if n % 2:
            batches.write(f"batch_w{n}", "cancel", CancelRequest(at=1))
    current = runner(store)
    current.start()
    try:
        time.sleep(2)
        batches.write("batch_z", "request", request_of("demo", id="batch_z", input_file_id="file-9"))
        current.wake()
        deadline = time.monotonic() + 10 + LOADED_S
        while batches.standing("batch_z").outcome is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        release.set()
        current.stop()
