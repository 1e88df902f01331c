"""Repairs: a job that computes the rows that went wrong, copies the others, and stands without the job before it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.client import BatchClient
from jobs.errors import StoreError, UsageError
from jobs.ledger import Ledger
from jobs.settings import Settings
from jobs.spec.repair import Repair, repair_of
from jobs.store import open_store
from schemas.records import Cancelled, Failed, Succeeded
from tests.support.local_jobs import rows_of, run_job, run_spec, write_rows
from tests.unit.workers.test_salvaging import salvaged
from workers.replica import tries as trying
from workers.staging import local

PROMPTS = [*(f"prompt {n}" for n in range(6)), "prompt LOOP", "prompt FAIL", "", "prompt 0"]
FAKE = {"engine__fake__loop_marker": "LOOP", "engine__fake__fail_marker": "FAIL"}
SMALL = {"shards__min_tokens": 1, "shards__target_count": 4}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "d.parquet", PROMPTS, lang=["de" if n % 2 else "en" for n in range(len(PROMPTS))])


@pytest.fixture
def parent(tmp_path: Path, dataset: Path) -> Ledger:
    return run_job(tmp_path, "one", dataset, **FAKE, **SMALL, sampling__max_tokens=10, input__keep=["lang"])


def retried(tmp_path: Path, parent: Ledger, job_id: str, *where: str, **fields: Any) -> tuple[Ledger, Repair]:
    named = {name.replace("__", "."): value for name, value in fields.items()}
    repair = repair_of(parent, where, named)
    record = run_spec(tmp_path, job_id, repair.spec)
    assert isinstance(record, Succeeded), record
    return Ledger(parent.store, job_id), repair


def test_only_the_chosen_rows_are_computed_and_the_job_outlives_the_one_before(tmp_path: Path, parent: Ledger) -> None:
    before = rows_of(parent)
    child, repair = retried(
        tmp_path, parent, "two", "finish_reason=length", sampling__max_tokens=300,
        sampling__repetition_detection={"max_pattern_size": 1, "min_count": 256},
    )  # fmt: skip
    assert (repair.num_chosen, repair.num_missing, repair.num_rows, repair.futile) == (8, 0, 10, "")
    plan = child.plan()
    assert plan is not None
    # The two error rows are copied, whether an engine or staging has refused them.
    assert (plan.num_reused_rows, plan.num_invalid_rows, plan.num_repeated_rows) == (2, 0, 1)
    after = rows_of(child)
    assert [row["row_id"] for row in after] == list(range(10))
    assert [row["finish_reason"] for row in after] == [*["stop"] * 6, "repetition", "error", "error", "stop"]
    assert after[7:9] == before[7:9]
    assert after[9]["generated_text"] == after[0]["generated_text"]
    assert [row["lang"] for row in after] == [row["lang"] for row in before]

    # The error rows of the repaired job, after the first is gone: again with the whole dataset.
    shutil.rmtree(Path(parent.uri))
    grandchild, repair = retried(tmp_path, child, "three", engine__fake__fail_marker=None)
    assert repair.spec.retry is not None
    assert repair.spec.retry.ancestors == ("one", "two")
    assert repair.num_chosen == 2
    last = rows_of(grandchild)
    assert [row["error_code"] for row in last if row["status"] == "error"] == ["EMPTY_PROMPT"]
    assert last[:7] == after[:7]


def test_equal_rows_of_which_one_is_copied_are_computed(tmp_path: Path, parent: Ledger) -> None:
    child, _ = retried(tmp_path, parent, "two", "lang=de", sampling__max_tokens=300)
    before, after, plan = rows_of(parent), rows_of(child), child.plan()
    assert plan is not None
    assert plan.num_repeated_rows == 0, "what it equals is not computed here"
    assert [row["finish_reason"] for row in after[::2]] == [row["finish_reason"] for row in before[::2]]
    assert after[0] == before[0]
    assert after[9]["finish_reason"] == "stop", "it equals row 0, which was copied as it was"


def test_copied_rows_are_no_results_of_the_new_sampling_values(tmp_path: Path, dataset: Path, parent: Ledger) -> None:
    """Rows cut at 10 tokens lie in a job of 300: who reuses it must not get them."""
    retried(tmp_path, parent, "two", "status=error", sampling__max_tokens=300)
    flags = {**FAKE, **SMALL, "input__keep": ["lang"], "reuse": ["two"]}
    longer = run_job(tmp_path, "three", dataset, **flags, sampling__max_tokens=300).plan()
    same = run_job(tmp_path, "four", dataset, **flags, sampling__max_tokens=10).plan()
    assert longer is not None
    assert same is not None
    assert (longer.num_reused_rows, same.num_reused_rows) == (0, 8)


def test_a_driver_that_dies_while_rows_are_copied_is_continued(
    tmp_path: Path, parent: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = repair_of(parent, ["lang=de"], {"sampling.max_tokens": 300}).spec
    undisturbed, _ = retried(tmp_path, parent, "undisturbed", "lang=de", sampling__max_tokens=300)
    write, written = local.write_shard, list[int]()

    def dies(rows: Any, target: Any) -> None:
        if len(written) == 2:
            raise StoreError("the driver dies here")
        written.append(1)
        write(rows, target)

    with monkeypatch.context() as patch:
        patch.setattr(local, "write_shard", dies)
        with pytest.raises(StoreError):
            run_spec(tmp_path, "two", spec)
    child = Ledger(parent.store, "two")
    assert child.plan() is not None
    assert child.terminal() is None
    assert isinstance(run_spec(tmp_path, "two", spec), Succeeded)
    assert rows_of(child) == rows_of(undisturbed)


def test_what_cannot_be_repaired_is_refused_with_a_next_step(tmp_path: Path, dataset: Path, parent: Ledger) -> None:
    with pytest.raises(UsageError, match="No row of job one meets finish_reason=stop"):
        repair_of(parent, ["finish_reason=stop"])
    with pytest.raises(UsageError, match=r"input\.template.*cannot be changed"):
        repair_of(parent, fields={"input.template": "x"})
    with pytest.raises(UsageError, match="no column 'finish'"):
        repair_of(parent, ["finish=stop"])
    assert "come out the same" in repair_of(parent, ["finish_reason=length"]).futile
    assert repair_of(parent).futile == ""
    with pytest.raises(UsageError, match="needs the price of a GPU-hour"):
        repair_of(parent, fields={"limits.max_cost": 10.0})
    limits = repair_of(parent, fields={"limits.max_cost": 10.0}, gpu_hour_price=2.5).spec.limits
    assert (limits.max_cost, limits.gpu_hour_price) == (10.0, 2.5)
    running = Ledger(parent.store, "running")
    running.create(parent.spec(), writer="test")
    with pytest.raises(UsageError, match="has not ended"):
        repair_of(running)
    running.end(Cancelled(by="test"), writer="test")
    with pytest.raises(UsageError, match="no results that could be kept"):
        repair_of(running)
    spec = repair_of(parent).spec
    write_rows(dataset, [*PROMPTS, "another"], lang=["de"] * 11)
    record = run_spec(tmp_path, "two", spec)
    assert isinstance(record, Failed)
    assert record.code == "INPUT_CHANGED"
    assert "--reuse one" in record.reason


@pytest.mark.parametrize("how", ["salvage", "nothing"])
def test_a_cancelled_job_is_completed_with_its_salvaged_rows(tmp_path: Path, dataset: Path, how: str) -> None:
    from jobs.spec.build import build_spec
    from workers.staging.staging import stage

    spec = build_spec(str(dataset), {"engine.name": "fake"})
    ledger = Ledger(open_store(f"{tmp_path}/jobs"), "one")
    ledger.create(spec, writer="test")
    stage(ledger, spec, "driver/test", lambda _: None)
    if how == "salvage":
        asyncio.run(salvaged(ledger, "first", 4))
    ledger.end(Cancelled(by="test"), writer="test")
    if how == "nothing":
        with pytest.raises(Exception, match="no results yet"):
            repair_of(ledger)
        return
    kept = rows_of(ledger)
    child, repair = retried(tmp_path, ledger, "two")
    plan = child.plan()
    assert plan is not None
    # Four answers, the row that equals the first of them, and the refused one, which is tried again.
    assert (len(kept), repair.num_chosen, repair.num_missing, plan.num_reused_rows) == (6, 1, 4, 5)
    after = rows_of(child)
    assert len(after) == 10
    assert [row for row in after if row["row_id"] in {row["row_id"] for row in kept}] == kept
    # Also a plain reuse takes them.
    reusing = run_job(tmp_path, "three", dataset, reuse=["one"]).plan()
    assert reusing is not None
    assert reusing.num_reused_rows == 5


def test_a_row_is_asked_for_again_until_its_answer_is_valid(tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "d.parquet", ["a BLANK", "b", "c FORMLESS", ""])
    fake = {"engine__fake__blank_marker": "BLANK", "engine__fake__formless_marker": "FORMLESS"}
    plain = rows_of(run_job(tmp_path, "plain", dataset, **fake))
    assert [row["attempts"] for row in plain] == [1, 1, 1, 0]
    again = rows_of(run_job(tmp_path, "again", dataset, **fake, retry_invalid=2))
    assert [row["attempts"] for row in again] == [2, 1, 1, 0]
    assert plain[0]["generated_text"] == ""
    assert again[0]["generated_text"].startswith("fake-")
    assert again[1]["generated_text"] == plain[1]["generated_text"]
    assert rows_of(run_job(tmp_path, "same", dataset, **fake, retry_invalid=2)) == again

    form = {"sampling__structured_outputs__regex": "[0-9]{3}"}
    shaped = rows_of(run_job(tmp_path, "shaped", dataset, **fake, **form, retry_invalid=3))
    assert [(row["attempts"], row["error_code"]) for row in shaped] == [
        (2, None), (1, None), (4, "INVALID_FORM"), (0, "EMPTY_PROMPT"),
    ]  # fmt: skip
    unshaped = rows_of(run_job(tmp_path, "unshaped", dataset, **fake, min_valid_json_rate=0.0, retry_invalid=1))
    assert [row["attempts"] for row in unshaped] == [2, 2, 2, 0], "none is JSON, and a gate says that all should be"
    assert unshaped[1]["generated_text"] == plain[1]["generated_text"], "if no try is valid, the first answer counts"


def test_what_changes_at_each_try() -> None:
    from schemas.sampling import Sampling

    greedy, warm = Sampling(), Sampling(temperature=1.5, seed=7)
    tries = [trying.nth_try(greedy, number) for number in range(7)]
    assert [(each.temperature, each.seed) for each in tries] == [
        (0.0, None), (0.2, 1), (0.4, 2), (0.6, 3), (0.8, 4), (1.0, 5), (1.0, 6),
    ]  # fmt: skip
    assert [(each.temperature, each.seed) for each in (trying.nth_try(warm, n) for n in range(3))] == [
        (1.5, 7), (1.5, 8), (1.5, 9),
    ]  # fmt: skip


def test_the_client_repairs_with_the_options_of_submit(parent: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    client, asked = BatchClient(Settings(root=parent.store.uri)), list[Any]()

    def submit_spec(spec: Any, job_id: str, **rest: Any) -> tuple[str, bool]:
        asked.append((spec, job_id, rest))
        return "the new job", True

    monkeypatch.setattr(client, "submit_spec", submit_spec)
    monkeypatch.setattr(client, "running_submitter", lambda: None)
    job = client.job("one")
    assert job.retry(where="finish_reason=length", max_tokens=4096, replicas="2..4", job_id="two") == "the new job"
    [(spec, job_id, rest)] = asked
    assert (job_id, rest["placement"]) == ("two", None)
    assert (spec.sampling.max_tokens, spec.replicas.max, spec.max_error_rate) == (4096, 4, 1.0)
    assert (spec.retry.ancestors, spec.retry.where) == (("one",), ("finish_reason=length",))
    with pytest.raises(UsageError, match="no option 'max_token'"):
        job.retry(max_token=1)
    with pytest.raises(UsageError, match="cannot be changed"):
        job.retry(system="another")
