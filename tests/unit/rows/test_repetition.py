"""Loops: which jobs and rows end them, what becomes of such a row, and that old specs say what they said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset.columns import resolve_columns
from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.rows.sampling import RowSampling
from jobs.spec.build import build_spec
from jobs.status.quality import quality_of
from jobs.store.local import LocalStore
from jobs.values.cells import RowFailure
from schemas.records import Succeeded
from schemas.sampling import USUAL_DETECTION, RepetitionDetection, Sampling
from schemas.spec import JobSpec
from tests.support.local_jobs import rows_of, run_job, run_spec, write_rows

WIDE = {"max_pattern_size": 32, "min_pattern_size": 2, "min_count": 8}


def job(**flags: Any) -> JobSpec:
    return build_spec("/d.parquet", {"engine.name": "fake", **flags})


def of_row(spec: JobSpec, params: Any = None, form: Any = None) -> RepetitionDetection | RowFailure | None:
    given = {"sampling_params": params, "structured_outputs": form}
    texts = {name: pa.array([value and json.dumps(value)], pa.string()) for name, value in given.items()}
    table = pa.table({"prompt": [""], **texts})
    columns = resolve_columns(table.schema, spec.input)
    (found,) = RowSampling(spec, columns, 1000).of(table)
    return found if isinstance(found, RowFailure) else (found or spec.sampling).repetition_detection


def test_new_jobs_end_what_no_sane_answer_has_and_nothing_under_a_form() -> None:
    assert job().sampling.repetition_detection == USUAL_DETECTION
    assert USUAL_DETECTION.least_tokens == 256
    assert job(**{"sampling.repetition_detection": "off"}).sampling.repetition_detection is None
    assert job(**{"sampling.structured_outputs.regex": "0+"}).sampling.repetition_detection is None
    assert job(task="score").sampling.repetition_detection is None
    given = {"sampling.structured_outputs.regex": "0+", "sampling.repetition_detection": WIDE}
    assert job(**given).sampling.repetition_detection == RepetitionDetection(**WIDE)


def test_rows_have_values_of_their_own_and_forms_are_left_alone() -> None:
    usual = job()
    assert of_row(usual, {"top_k": 3}) == USUAL_DETECTION
    assert of_row(usual, {"repetition_detection": WIDE}) == RepetitionDetection(**WIDE)
    assert of_row(usual, {"repetition_detection": {"max_pattern_size": 0}}) is None
    assert of_row(usual, None, {"regex": "0+"}) is None
    assert of_row(usual, {"repetition_detection": WIDE}, {"regex": "0+"}) == RepetitionDetection(**WIDE)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_pattern_size": 2}, "min_count"),
        ({"max_pattern_size": 2, "min_count": 1}, "min_count"),
        ({"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 4}, "min_pattern_size \\(3\\) is larger"),
        ({"max_pattern": 2, "min_count": 4}, "max_pattern"),
        ("on", "repetition_detection"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        job(**{"sampling.repetition_detection": values})
    assert isinstance(of_row(job(), {"repetition_detection": values}), RowFailure)


def test_a_job_of_an_older_version_ends_no_loops_and_is_still_the_same_job(tmp_path: Path) -> None:
    new = job()
    stored = json.loads(new.to_json())
    del stored["sampling"]["repetition_detection"], stored["retry"], stored["retry_invalid"]
    del stored["max_repetition_rate"]
    ledger = Ledger(LocalStore(tmp_path), "old")
    ledger.store.put_new("old/_job/spec.json", json.dumps(stored).encode(), writer="test")
    assert ledger.spec().sampling.repetition_detection is None
    assert ledger.create(new, writer="another") is False, "the same command attaches, and the spec that stands counts"
    with pytest.raises(UsageError, match="different spec"):
        ledger.create(new.evolve(sampling=Sampling(repetition_detection=RepetitionDetection(**WIDE))), writer="third")


def test_a_loop_is_ended_counted_and_judged(tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "d.parquet", ["a", "b LOOP", "c", "d"])
    flags = {"engine__fake__loop_marker": "LOOP", "sampling__max_tokens": 1000}
    ledger = run_job(tmp_path, "ended", dataset, **flags, max_repetition_rate=0.2)
    rows = rows_of(ledger, "finish_reason", "num_generated_tokens", "status")
    assert [row["finish_reason"] for row in rows] == ["stop", "repetition", "stop", "stop"]
    assert (rows[1]["num_generated_tokens"], rows[1]["status"]) == (256, "ok")
    terminal = ledger.terminal()
    assert isinstance(terminal, Succeeded)
    assert terminal.manifest.num_repetition_rows == 1
    (crossed,) = terminal.manifest.crossed_gates
    assert (crossed.gate, crossed.num_rows, crossed.of_rows) == ("max_repetition_rate", 1, 4)
    quality = quality_of(ledger.spec(), terminal, None)
    assert quality is not None
    assert quality.finish_reasons == {"stop": 3, "length": 0, "repetition": 1, "error": 0}
    assert any("ended in a loop" in warning for warning in quality.warnings)

    whole = run_job(tmp_path, "whole", dataset, **flags, sampling__repetition_detection="off")
    assert [row["num_generated_tokens"] for row in rows_of(whole)] == [21, 1000, 21, 21]
    assert [row for row in rows_of(whole) if row["row_id"] != 1] == [
        row for row in rows_of(ledger) if row["row_id"] != 1
    ]


def test_an_answer_that_must_be_json_and_loops_is_not_valid_json(tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "d.parquet", ["a LOOP"])
    spec = build_spec(
        str(dataset),
        {"engine.name": "fake", "engine.fake.loop_marker": "LOOP", "sampling.structured_outputs.json_schema": "{}",
         "sampling.repetition_detection": {"max_pattern_size": 1, "min_count": 9}},
    )  # fmt: skip
    assert isinstance(run_spec(tmp_path, "j", spec), Succeeded)
    commit = Ledger(LocalStore(tmp_path / "jobs"), "j").shard_commit(0)
    assert (commit.num_repetition_rows, commit.num_json_rows, commit.num_not_json_rows) == (1, 1, 1)
    assert commit.error_codes == {}
