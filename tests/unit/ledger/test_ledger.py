"""What the ledger promises to any number of writers: one outcome, and everybody learns it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from jobs.errors import Conflict, Damaged, StoreError, UsageError
from jobs.ledger import Commit, Ledger, list_jobs
from jobs.staged import Staged
from jobs.store.local import LocalStore
from schemas import FORMAT_VERSION, keys
from schemas.commits import ShardStats
from schemas.records import Attempt, Cancelled, Failed, Manifest, Plan, Progress, ShardPlan, Succeeded
from schemas.spec import InputSpec, JobSpec, ModelSpec

_T = TypeVar("_T")


def spec_of(**changes: object) -> JobSpec:
    return JobSpec(name="demo", input=InputSpec(uri="/d.parquet"), model=ModelSpec(path="builtin:bytes")).evolve(
        **changes
    )


def plan_of(num_rows: int = 3, max_model_len: int = 100) -> Plan:
    shard = ShardPlan(
        index=0, num_rows=num_rows, num_invalid_rows=0, num_input_tokens=1, num_expected_tokens=2, row_ids_sha256="0"
    )
    return Plan(
        spec_sha256=spec_of().digest(),
        files=(),
        shards=(shard,),
        num_rows=num_rows,
        num_invalid_rows=0,
        num_input_tokens=1,
        max_input_tokens=1,
        max_model_len=max_model_len,
    )


def stats_of(data: bytes) -> ShardStats:
    return ShardStats.of(data, rows=3, error_codes={"EMPTY_PROMPT": 1}, input_tokens=30, generated_tokens=12)


def succeeded(job_id: str = "demo", generated: int = 0) -> Succeeded:
    return Succeeded(
        manifest=Manifest(
            job_id=job_id,
            plan_sha256="0",
            shards=(),
            num_rows=3,
            num_error_rows=0,
            num_input_tokens=0,
            num_generated_tokens=generated,
        )
    )


def all_at_once(actions: Sequence[Callable[[], _T]]) -> list[_T]:
    """Run each action in a thread of its own, all released at the same moment; their results in order."""
    gate = threading.Barrier(len(actions))

    def run(action: Callable[[], _T]) -> _T:
        gate.wait(10)
        return action()

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(run, actions))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(LocalStore(tmp_path / "root"), "demo")


# -- spec ---------------------------------------------------------------------------------------


def test_the_first_spec_creates_the_job_and_the_same_one_attaches(ledger: Ledger) -> None:
    assert ledger.create(spec_of(), writer="a")
    assert not ledger.create(spec_of(), writer="b")
    assert ledger.spec() == spec_of()


def test_another_spec_under_the_same_id_is_a_conflict_and_changes_nothing(ledger: Ledger) -> None:
    ledger.create(spec_of(), writer="a")
    with pytest.raises(Conflict, match="different spec") as caught:
        ledger.create(spec_of(max_error_rate=0.5), writer="b")
    assert "jobs status demo" in caught.value.hint
    assert ledger.spec() == spec_of()


def test_of_many_submits_at_once_one_creates_the_job(ledger: Ledger) -> None:
    outcomes = all_at_once([lambda n=n: ledger.create(spec_of(), writer=f"w{n}") for n in range(8)])
    assert sorted(outcomes) == [False] * 7 + [True]


def test_of_many_different_specs_at_once_one_stands_and_the_others_conflict(ledger: Ledger) -> None:
    def submit(n: int) -> bool:
        try:
            return ledger.create(spec_of(name=f"job {n}"), writer=f"w{n}")
        except Conflict:
            return False

    outcomes = all_at_once([lambda n=n: submit(n) for n in range(8)])
    assert outcomes.count(True) == 1
    assert ledger.spec().name == f"job {outcomes.index(True)}"


def test_an_unknown_job_is_a_usage_error_that_says_where_it_looked(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match=f"No job demo under {ledger.store.uri}"):
        ledger.spec()
    assert (ledger.plan(), ledger.terminal(), ledger.progress(), ledger.created_at()) == (None, None, None, None)


@pytest.mark.parametrize("job_id", ["", "../etc", "a/b", "Upper", "-a", "a-", ".a", "a" * 101, "a b", "ü"])
def test_a_name_that_is_no_job_id_is_refused(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(UsageError, match="is not a job id"):
        Ledger(LocalStore(tmp_path), job_id)


@pytest.mark.parametrize("job_id", ["a", "a..b", "0", "nightly-2026-01-01", "a" * 100])
def test_job_ids_name_directories_that_work(tmp_path: Path, job_id: str) -> None:
    ledger = Ledger(LocalStore(tmp_path), job_id)
    assert ledger.create(spec_of(), writer="a")
    assert [found.job_id for found in list_jobs(LocalStore(tmp_path))] == [job_id]


# -- documents that cannot be read --------------------------------------------------------------

READS = {keys.SPEC: Ledger.spec, keys.PLAN: Ledger.plan, keys.TERMINAL: Ledger.terminal}
DOCUMENTS = {keys.SPEC: spec_of(), keys.PLAN: plan_of(), keys.TERMINAL: Cancelled(by="me")}


@pytest.mark.parametrize("key", READS)
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"unknown": 1}', b"\xff\xfe"])
def test_a_damaged_document_is_named_and_never_taken_for_absent(ledger: Ledger, key: str, data: bytes) -> None:
    ledger.store.put(f"demo/{key}", data)
    with pytest.raises(Damaged, match=f"{key} is damaged: \\S") as caught:
        READS[key](ledger)
    assert ": :" not in str(caught.value)
    assert "Restore" in caught.value.hint
    assert "pgrade" not in caught.value.hint


@pytest.mark.parametrize("key", READS)
def test_a_document_of_a_newer_format_is_refused(ledger: Ledger, key: str) -> None:
    newer = {**json.loads(DOCUMENTS[key].to_json()), "format_version": FORMAT_VERSION + 1}
    ledger.store.put(f"demo/{key}", json.dumps(newer).encode())
    with pytest.raises(UsageError, match="newer") as caught:
        READS[key](ledger)
    assert "Upgrade" in caught.value.hint


@pytest.mark.parametrize("key", READS)
def test_a_value_in_a_damaged_document_is_not_quoted(ledger: Ledger, key: str) -> None:
    broken = {**json.loads(DOCUMENTS[key].to_json()), "format_version": "canary-in-a-value"}
    ledger.store.put(f"demo/{key}", json.dumps(broken).encode())
    with pytest.raises(Damaged) as caught:
        READS[key](ledger)
    assert "canary" not in str(caught.value)


def test_a_newer_end_of_the_job_is_not_overwritten_by_an_older_program(ledger: Ledger) -> None:
    newer = json.dumps({"state": "SUCCEEDED", "format_version": FORMAT_VERSION + 1}).encode()
    ledger.store.put(f"demo/{keys.TERMINAL}", newer)
    with pytest.raises(UsageError):
        ledger.end(Cancelled(by="me"), writer="c")
    assert ledger.store.get(f"demo/{keys.TERMINAL}") == newer


def test_progress_of_another_version_is_passed_over_because_nothing_rests_on_it(ledger: Ledger) -> None:
    ledger.store.put(f"demo/{keys.PROGRESS}", b'{"driver": "d", "new_field": 1}')
    assert ledger.progress() is None


# -- plan and staged shards ---------------------------------------------------------------------


def test_the_first_plan_stands_and_later_writers_are_given_it(ledger: Ledger) -> None:
    assert ledger.create_plan(plan_of(3), writer="a") == plan_of(3)
    assert ledger.create_plan(plan_of(4), writer="b") == plan_of(3)
    assert ledger.plan() == plan_of(3)


def test_of_many_plans_at_once_everybody_goes_on_with_the_same(ledger: Ledger) -> None:
    standing = all_at_once([lambda n=n: ledger.create_plan(plan_of(n + 1), writer=f"w{n}") for n in range(8)])
    assert len({plan.digest() for plan in standing}) == 1
    assert ledger.plan() == standing[0]


def test_staged_rows_are_written_once_and_deleted_only_as_told(ledger: Ledger) -> None:
    assert Staged(ledger).write(7, b"first", writer="a")
    assert not Staged(ledger).write(7, b"second", writer="b")
    Staged(ledger).write(100_000, b"wide", writer="a")
    assert Staged(ledger).read(7) == b"first"
    assert Staged(ledger).shards() == {7, 100_000}
    Staged(ledger).delete([7, 8])
    assert Staged(ledger).shards() == {100_000}
    with pytest.raises(StoreError, match=r"part-00007\.parquet is missing"):
        Staged(ledger).read(7)


# -- commits ------------------------------------------------------------------------------------


def test_the_first_commit_stands_with_its_own_statistics(ledger: Ledger) -> None:
    assert ledger.commit(0, b"first", stats_of(b"first"), attempt_id="one") is Commit.OURS
    assert ledger.commit(0, b"second", stats_of(b"second"), attempt_id="two") is Commit.ANOTHERS
    assert ledger.read_result(0) == b"first"
    commit = ledger.shard_commit(0)
    assert (commit.attempt_id, commit.sha256, commit.size_bytes) == ("one", stats_of(b"first").sha256, 5)
    assert (commit.num_rows, commit.num_error_rows, commit.num_input_tokens, commit.num_generated_tokens) == (
        *(3, 1),
        *(30, 12),
    )
    assert commit.key == keys.result(0)


def test_a_commit_that_is_repeated_by_its_own_attempt_is_still_ours(ledger: Ledger) -> None:
    for _ in range(2):
        assert ledger.commit(0, b"data", stats_of(b"data"), attempt_id="one") is Commit.OURS


@pytest.mark.parametrize("round_", range(5))
def test_of_many_commits_at_once_one_wins_and_its_bytes_stand(ledger: Ledger, round_: int) -> None:
    data = [f"attempt {n} of round {round_}".encode() * (n + 1) for n in range(8)]
    outcomes = all_at_once(
        [lambda n=n: ledger.commit(0, data[n], stats_of(data[n]), attempt_id=f"a{n}") for n in range(8)]
    )
    assert outcomes.count(Commit.OURS) == 1
    winner = outcomes.index(Commit.OURS)
    assert ledger.read_result(0) == data[winner]
    assert ledger.shard_commit(0).attempt_id == f"a{winner}"
    assert ledger.shard_commit(0).sha256 == stats_of(data[winner]).sha256


def test_committed_lists_result_objects_and_nothing_else(ledger: Ledger) -> None:
    for shard in (2, 0, 123_456):
        ledger.commit(shard, b"x", stats_of(b"x"), attempt_id="a")
    Staged(ledger).write(5, b"staged", writer="a")
    ledger.store.put("demo/results/notes.txt", b"from another tool")
    assert ledger.committed() == {0, 2, 123_456}
    assert Ledger(ledger.store, "demo2").committed() == set()


def test_a_shard_that_is_not_committed_has_no_commit_record(ledger: Ledger) -> None:
    assert ledger.find_commit(3) is None
    assert ledger.read_result(3) is None
    with pytest.raises(StoreError, match=r"part-00003\.parquet is missing"):
        ledger.shard_commit(3)


def test_a_result_that_another_program_wrote_is_not_taken_for_a_commit(ledger: Ledger) -> None:
    ledger.store.put_new(f"demo/{keys.result(0)}", b"foreign", writer="somebody")
    with pytest.raises(StoreError, match="no readable commit record") as caught:
        ledger.find_commit(0)
    assert "move it away" in caught.value.hint


def test_attempts_are_told_apart_and_read_back_by_shard(ledger: Ledger) -> None:
    attempts = [
        Attempt(attempt_id=name, shard=shard, driver="d", replica="r", node="n", pid=1, started_at="now")
        for shard, name in ((0, "a"), (0, "b"), (11, "c"))
    ]
    for attempt in reversed(attempts):
        ledger.record_attempt(attempt)
    assert list(ledger.attempts()) == attempts


# -- end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_", range(6))
def test_of_many_ends_at_once_one_stands_and_everybody_is_told_the_same(ledger: Ledger, round_: int) -> None:
    records = [
        record
        for n in range(3)
        for record in (succeeded(generated=n), Cancelled(by=f"user {n}"), Failed(code="ENGINE_DIED", reason=f"{n}"))
    ]
    # Each round another kind is first in line, so that every kind has its turn at winning.
    records = records[round_ % 3 :] + records[: round_ % 3]
    told = all_at_once([lambda n=n, r=r: ledger.end(r, writer=f"w{n}") for n, r in enumerate(records)])
    assert len({record.to_json() for record in told}) == 1
    assert told[0] in records
    assert ledger.terminal() == told[0]
    published = ledger.store.get(f"demo/{keys.SUCCESS}")
    assert published == (told[0].manifest.to_json() if isinstance(told[0], Succeeded) else None)


@pytest.mark.parametrize("late", [succeeded(generated=9), Cancelled(by="late"), Failed(code="X", reason="late")])
@pytest.mark.parametrize("first", [succeeded(), Cancelled(by="first"), Failed(code="Y", reason="first")])
def test_a_late_end_is_told_what_stands_and_changes_nothing(
    ledger: Ledger, first: Succeeded | Cancelled | Failed, late: Succeeded | Cancelled | Failed
) -> None:
    assert ledger.end(first, writer="one") == first
    before = {info.key: ledger.store.get(info.key) for info in ledger.objects()}
    assert ledger.end(late, writer="two") == first
    assert {info.key: ledger.store.get(info.key) for info in ledger.objects()} == before


def test_success_is_published_by_whoever_repeats_the_end(ledger: Ledger) -> None:
    ledger.end(succeeded(), writer="one")
    ledger.store.delete(f"demo/{keys.SUCCESS}")
    ledger.end(Cancelled(by="late"), writer="two")
    assert ledger.store.get(f"demo/{keys.SUCCESS}") == succeeded().manifest.to_json()
    for _ in range(2):
        ledger.publish(succeeded().manifest, writer="three")


# -- the rest -----------------------------------------------------------------------------------


def test_progress_is_overwritten(ledger: Ledger) -> None:
    for phase in ("staging", "running"):
        ledger.write_progress(Progress(driver="d", updated_at="u", started_at="s", phase=phase))
    progress = ledger.progress()
    assert progress is not None
    assert progress.phase == "running"


def test_two_jobs_with_a_common_beginning_of_their_names_do_not_see_each_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    short, long = Ledger(store, "job"), Ledger(store, "job-2")
    for ledger in (short, long):
        ledger.create(spec_of(name=ledger.job_id), writer="a")
    long.commit(0, b"x", stats_of(b"x"), attempt_id="a")
    long.end(Cancelled(by="me"), writer="c")
    assert short.terminal() is None
    assert short.committed() == set()
    assert [info.key for info in short.objects()] == ["job/_job/spec.json"]
    assert {ledger.job_id for ledger in list_jobs(store)} == {"job", "job-2"}


@pytest.mark.parametrize(
    ("key", "read"), [(keys.SPEC, Ledger.spec), (keys.PLAN, Ledger.plan), (keys.TERMINAL, Ledger.terminal)]
)
def test_a_newer_version_is_refused_as_such_whatever_else_it_has(
    tmp_path: Path, key: str, read: Callable[[Ledger], object]
) -> None:
    ledger = Ledger(LocalStore(tmp_path), "newer")
    document = json.dumps({"format_version": FORMAT_VERSION + 1, "a_field_of_the_future": []}).encode()
    ledger.store.put_new(f"newer/{key}", document, writer="w")
    with pytest.raises(
        UsageError, match=f"format_version {FORMAT_VERSION + 1} is newer than {FORMAT_VERSION}"
    ) as caught:
        read(ledger)
    assert "Upgrade" in caught.value.hint


def test_a_result_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(LocalStore(tmp_path), "newer")
    metadata = {"format-version": str(FORMAT_VERSION + 1)}
    ledger.store.put_new(f"newer/{keys.result(0)}", b"data", writer="w", metadata=metadata)
    with pytest.raises(UsageError, match="is newer than"):
        ledger.find_commit(0)
