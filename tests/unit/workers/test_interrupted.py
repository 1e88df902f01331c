"""What a driver leaves behind that ends before its job: a reason in the store, or in its last line."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ClusterError, Damaged, InvalidModel, MissingInput, MissingModel, MissingPackage, StoreError
from jobs.ledger import Ledger
from jobs.store.local import LocalStore
from schemas import keys
from schemas.codes import InterruptionCode, JobError
from schemas.markers import MARK
from schemas.records import Failed, Interruption, Plan, Succeeded
from schemas.spec import JobSpec, ModelSpec
from tests.unit.workers.test_replicas_faults import LocalCluster, LocalReplica, spec_with, stage
from workers.driver import driver, entry, preparation
from workers.driver.entry import run_job
from workers.driver.resources import Resources
from workers.engines.fake import FakeEngine
from workers.failures import JobFailure, JobInterruption, account_for, passing


class Cluster(LocalCluster):
    """Everything is staged; replicas are loaded in this process."""

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        plan = ledger.plan()
        assert plan is not None
        for event in (plan, *range(len(plan.shards))):
            report(event)


def job(root: Path, shards: list[list[str]], **fake: Any) -> Ledger:
    ledger = Ledger(LocalStore(root), "demo")
    plan = stage(ledger, spec_with(**fake), shards)
    ledger.create_plan(plan, writer="test")
    return ledger


def only_word(ledger: Ledger) -> Interruption:
    ((_, interruption),) = ledger.interruptions()
    return interruption


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("Cannot use x: full.", "Free some space, then run the command again."), "STORE_UNAVAILABLE"),
        (MissingInput("There is no file /in.", "Check the path."), "INPUT_UNAVAILABLE"),
        (MissingModel("There is no model directory /m.", "Check."), "MODEL_UNAVAILABLE"),
        (Damaged("x/plan.json is damaged: it is empty.", "Restore it."), "DAMAGED"),
        (OSError(errno.ENOSPC, "No space left on device"), "OUT_OF_RESOURCES"),
        (ModuleNotFoundError("canary", name="pandas.core"), "INVALID_CLUSTER"),
        (ImportError("canary", name="pyarrow"), "INVALID_CLUSTER"),
        (ImportError("canary"), "INVALID_CLUSTER"),
        (MissingPackage("vLLM is missing.", "Install it."), "INVALID_CLUSTER"),
        (MemoryError(), "OUT_OF_RESOURCES"),
        (ClusterError("It does not answer.", "Check that it runs."), "INVALID_CLUSTER"),
        (IndexError("canary of a prompt"), "UNEXPECTED"),
        (RuntimeError("canary of a prompt"), "UNEXPECTED"),
    ],
)
def test_whatever_a_driver_dies_of_has_a_code_a_reason_and_a_next_step(error: Exception, code: str) -> None:
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("canary of what wraps it") from inner
    except RuntimeError as wrapped:
        raised = wrapped if passing(error) is not None else error
        found = account_for(raised, driver="d", job_id="demo")
    assert found.code == code
    assert found.reason
    assert "jobs resume demo" in found.hint
    assert "run the command" not in found.hint
    assert "canary" not in found.reason + found.hint


def test_an_import_that_failed_names_the_package_and_its_extra() -> None:
    found = account_for(ModuleNotFoundError("No module named 'vllm.v1'", name="vllm.v1"), driver="d", job_id="demo")
    assert "'vllm'" in found.reason
    assert "nightbatch[gpu]" in found.hint
    found = account_for(ModuleNotFoundError("…", name="pandas"), driver="d", job_id="demo")
    assert "'pandas'" in found.reason
    assert "pip install nightbatch==" in found.hint


def test_what_is_there_and_wrong_does_not_pass() -> None:
    changed = JobFailure(JobError.INPUT_CHANGED, "x")
    for error in (InvalidModel("It has no chat format."), changed, OSError("no number")):
        assert passing(error) is None


def test_a_driver_that_cannot_reach_the_cluster_says_so_and_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = job(tmp_path, [["a"]])

    def fail(*_: object) -> None:
        raise ConnectionError("canary")

    monkeypatch.setenv("JOBS_SUBMISSION_ID", "d1")
    assert entry.main(ledger.uri, fail) == 1
    word = only_word(ledger)
    assert (word.driver, word.code) == ("d1", "UNEXPECTED")
    printed = Interruption.model_validate_json(capsys.readouterr().out.splitlines()[-1].removeprefix(MARK))
    assert printed.evolve(at=word.at) == word
    assert ledger.terminal() is None


def test_a_store_that_takes_nothing_leaves_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = job(tmp_path, [["a"]])

    def refuse(*_: Any, **__: Any) -> bool:
        raise StoreError("Cannot use x: Read-only file system.", "Choose another.")

    monkeypatch.setattr(LocalStore, "put_new", refuse)
    monkeypatch.setenv("JOBS_SUBMISSION_ID", "d1")
    assert entry.main(ledger.uri, lambda *_: Cluster()) == 4
    told = Interruption.model_validate_json(capsys.readouterr().out.splitlines()[-1].removeprefix(MARK))
    assert (told.driver, told.code) == ("d1", "STORE_UNAVAILABLE")
    assert "Read-only" in told.reason
    assert ledger.interruptions() == []


def test_an_engine_that_does_not_start_fails_a_new_job_and_interrupts_one_that_has_rows(tmp_path: Path) -> None:
    fresh = job(tmp_path / "fresh", [["a"], ["b"]], start_error="no GPU")
    record = run_job(fresh, "d", Cluster)
    assert isinstance(record, Failed)
    assert record.code == "ENGINE_START_FAILED"

    begun = job(tmp_path / "begun", [["a"], ["b"]], start_error="no GPU")
    done = job(tmp_path / "done", [["a"], ["b"]])
    assert isinstance(run_job(done, "d", Cluster), Succeeded)
    first = done.read_result(0)
    assert first is not None
    metadata = done.store.head(done.key(keys.result(0))).metadata  # type: ignore[union-attr]
    begun.store.put_new(begun.key(keys.result(0)), first, writer=metadata["writer"], metadata=_others(metadata))
    with pytest.raises(JobInterruption, match="did not start"):
        run_job(begun, "d", Cluster)
    assert begun.terminal() is None
    assert only_word(begun).code == "ENGINE_START_FAILED"


class Unstaged(Cluster):
    """Staging cannot import what it needs."""

    async def stage(self, *_: Any) -> None:
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")


def test_a_package_that_staging_or_an_engine_lacks_interrupts_the_job_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = job(tmp_path / "staging", [["a"]])
    monkeypatch.setenv("JOBS_SUBMISSION_ID", "d1")
    assert entry.main(ledger.uri, lambda *_: Unstaged()) == 1
    word = only_word(ledger)
    assert (word.code, "'pandas'" in word.reason) == ("INVALID_CLUSTER", True)

    async def start(self: FakeEngine) -> None:
        raise ModuleNotFoundError("No module named 'vllm.v1'", name="vllm.v1")

    monkeypatch.setattr(FakeEngine, "start", start)
    ledger = job(tmp_path / "engine", [["a"]])
    with pytest.raises(JobInterruption, match="'vllm'"):
        run_job(ledger, "d", Cluster)
    word = only_word(ledger)
    assert "nightbatch[gpu]" in word.hint
    assert ledger.terminal() is None, "another image may have it"


def _others(metadata: Any) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name != "writer"}


def test_a_model_that_is_away_interrupts_and_another_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_model(name: str, fingerprint: str | None) -> Ledger:
        ledger = Ledger(LocalStore(tmp_path / name), "demo")
        model = ModelSpec(path=str(tmp_path / "model"), fingerprint=fingerprint)
        ledger.create_plan(stage(ledger, spec_with().evolve(model=model), [["a"]]), writer="test")
        return ledger

    for fingerprint in ("sha256:0", None):
        ledger = with_model(f"away-{fingerprint}", fingerprint)
        with pytest.raises(JobInterruption, match="no model directory"):
            run_job(ledger, "d", Cluster)
        assert only_word(ledger).code == "MODEL_UNAVAILABLE"
        assert ledger.terminal() is None

    (tmp_path / "model").mkdir()  # a mount point without its mount
    ledger = with_model("empty", "sha256:0")
    with pytest.raises(JobInterruption, match=r"no config\.json"):
        run_job(ledger, "d", Cluster)

    monkeypatch.setattr(preparation, "pin_model", lambda spec: "sha256:1")
    record = run_job(with_model("other", "sha256:0"), "d", Cluster)
    assert isinstance(record, Failed)
    assert record.code == "MODEL_CHANGED"


def test_processes_start_beside_the_check_of_the_model_and_none_loads_one_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    up = threading.Event()

    class Starting(Cluster):
        def prepare(self, replica: LocalReplica) -> None:
            async def load() -> None:
                loads.append("a replica")

            replica._replica.load = load  # type: ignore[method-assign,assign]
            up.set()

    def refuse(spec: JobSpec) -> None:
        assert up.wait(10), "no replica's process starts while the model is checked"
        raise JobFailure(JobError.MODEL_CHANGED, "The model is not the one of the job.")

    cluster = Starting()
    monkeypatch.setattr(driver, "check_model", refuse)
    record = run_job(job(tmp_path, [["a"]]), "d", lambda: cluster)
    assert isinstance(record, Failed)
    assert (record.code, record.reason) == ("MODEL_CHANGED", "The model is not the one of the job.")
    assert [replica._killed.is_set() for replica in cluster.replicas] == [True] * 2
    assert not loads


def test_a_model_that_is_missing_is_told_rather_than_what_its_size_would_have_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weighing(Cluster):
        def resolve_resources(self, spec: JobSpec) -> Resources:
            raise MissingModel("There is no file model.safetensors.")

    def refuse(spec: JobSpec) -> None:
        time.sleep(0.2)
        raise JobInterruption(InterruptionCode.MODEL_UNAVAILABLE, "There is no model directory.")

    monkeypatch.setattr(driver, "check_model", refuse)
    with pytest.raises(JobInterruption, match="no model directory"):
        run_job(job(tmp_path, [["a"]]), "d", Weighing)


def test_no_count_goes_back_when_a_driver_follows_another(tmp_path: Path) -> None:
    ledger = job(tmp_path, [["a", "b"], ["c", "d"]])
    run_job(ledger, "first", Cluster)
    ledger.store.delete(ledger.key(keys.TERMINAL))
    ledger.store.delete(ledger.key(keys.SUCCESS))
    ledger.store.delete(ledger.key(keys.result(1)))
    words: list[Any] = []
    write = ledger.write_progress
    ledger.write_progress = lambda progress: (words.append(progress), write(progress))  # type: ignore[method-assign,assign,return-value,func-returns-value]

    class Slow(Cluster):
        async def stage(self, *arguments: Any) -> None:
            await asyncio.sleep(3)
            await super().stage(*arguments)

    with pytest.raises(StoreError):  # its staged rows are gone: that is not what is looked at here
        run_job(ledger, "second", Slow)
    assert words, "it has said something before it knew the plan"
    assert min(progress.rows_ok for progress in words) == 2
    assert {progress.shards_committed for progress in words} == {1}
    assert {progress.driver for progress in words} == {"second"}


def test_a_driver_that_is_told_to_stop_says_so_before_its_replicas_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = job(tmp_path, [["a"], ["b"]], token_s=30.0)

    class Stopped(Cluster):
        async def stage(self, *arguments: Any) -> None:
            await super().stage(*arguments)
            asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("JOBS_SUBMISSION_ID", "d1")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert entry.main(ledger.uri, lambda *_: Stopped()) == entry.TOLD_TO_STOP
    finally:
        signal.signal(signal.SIGTERM, before)
    assert only_word(ledger).code == "STOPPED"
    assert ledger.terminal() is None
