"""A trial runs some rows of a dataset, which keep their ids, and the whole job takes their results over."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.dataset import inspect
from jobs.dataset.limiting import portions
from schemas.spec import InputSpec
from tests.support.harness import User, check_invariants, new_id, write_prompts

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("seed", [None, 7])
def test_a_trial_runs_ten_of_a_thousand_rows_and_the_whole_job_takes_them_over(
    user: User, tmp_path: Path, seed: int | None
) -> None:
    dataset = write_prompts(tmp_path / "rows.parquet", [f"prompt {n}" for n in range(1000)], tag=list(range(1000)))
    limit = ("--limit", "10", *(("--limit-seed", str(seed)) if seed is not None else ()))
    common = (str(dataset), "--engine", "fake", "--keep", "tag")
    expected = [
        row
        for portion in portions(inspect(str(dataset)), InputSpec(uri=str(dataset), limit=10, limit_seed=seed))
        for row in (range(10) if portion.row_ids is None else portion.row_ids.tolist())
    ]
    assert len(expected) == 10
    assert (expected == list(range(10))) is (seed is None)
    assert user.json("plan", *common, *limit)["rows"] == 10

    trial = user.submit(*common, *limit, "--id", new_id("trial"), "--wait")
    table = check_invariants(user.ledger(trial), expected)
    assert table["tag"].to_pylist() == expected  # row_id leads back to the dataset's row
    exported = tmp_path / "trial.parquet"
    user.run("results", trial, str(exported))
    assert pq.read_table(exported)["row_id"].to_pylist() == expected
    assert user.json("status", trial)["rows_total"] == 10

    whole = user.submit(*common, "--reuse", trial, "--id", new_id("whole"), "--wait")
    plan = user.ledger(whole).plan()
    assert plan is not None
    assert (plan.num_rows, plan.num_reused_rows, plan.reused_jobs) == (1000, 10, (trial,))
    rows = check_invariants(user.ledger(whole), 1000)
    assert rows.take(expected)["generated_text"].to_pylist() == table["generated_text"].to_pylist()
    assert user.json("compare", trial, whole)["only_b"] == 990
