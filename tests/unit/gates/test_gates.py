"""Quality gates judge counts, say what was crossed with its numbers, and keep `_SUCCESS` from other tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.ledger import Ledger
from jobs.results.gates import describe, judged
from jobs.results.read import open_results
from jobs.store import open_store
from schemas import keys
from schemas.commits import ShardStats
from schemas.records import Manifest, ShardCommit, Succeeded
from tests.unit.results.ledgers import make_job, spec_of, succeed

COUNTS = Manifest(
    job_id="demo",
    plan_sha256="0",
    shards=(),
    num_rows=1_000,
    num_error_rows=200,
    num_length_rows=80,
    num_empty_rows=8,
    num_valid_json_rows=720,
    num_input_tokens=0,
    num_generated_tokens=0,
)
"""800 answers: 10 % of them cut, 1 % empty, 90 % JSON."""


@pytest.mark.parametrize(
    ("gate", "kept", "crossed", "words"),
    [
        ("max_error_rate", 0.2, 0.1999, "200 of 1,000 rows are errors (20 %; max_error_rate allows at most 19.99 %)"),
        (
            "max_length_finish_rate",
            0.1,
            0.05,
            "80 of 800 answers were cut at their token limit (10 %; max_length_finish_rate allows at most 5 %)",
        ),
        ("max_empty_rate", 0.01, 0.0, "8 of 800 answers are empty (1 %; max_empty_rate allows at most 0 %)"),
        (
            "min_valid_json_rate",
            0.9,
            0.95,
            "720 of 800 answers are valid JSON (90 %; min_valid_json_rate allows at least 95 %)",
        ),
    ],
)
def test_a_gate_is_crossed_beyond_its_limit_and_says_so(gate: str, kept: float, crossed: float, words: str) -> None:
    spec = spec_of(max_error_rate=1.0)
    assert judged(spec.evolve(**{gate: kept}), COUNTS).crossed_gates == ()
    gates = judged(spec.evolve(**{gate: crossed}), COUNTS).crossed_gates
    assert [each.gate for each in gates] == [gate]
    assert describe(gates) == words


def test_gates_of_answers_are_not_crossed_where_there_is_no_answer() -> None:
    all_errors = COUNTS.evolve(num_error_rows=1_000, num_length_rows=0, num_empty_rows=0, num_valid_json_rows=0)
    spec = spec_of(max_error_rate=0.5, max_empty_rate=0.0, min_valid_json_rate=1.0)
    assert [each.gate for each in judged(spec, all_errors).crossed_gates] == ["max_error_rate"]


def test_limits_that_are_not_given_are_no_gates() -> None:
    bad = COUNTS.evolve(num_error_rows=0, num_length_rows=1_000, num_empty_rows=1_000, num_valid_json_rows=0)
    assert judged(spec_of(), bad).crossed_gates == ()


def test_scoring_has_no_gates_on_answers() -> None:
    with pytest.raises(ValidationError, match="only max_error_rate"):
        spec_of(task="score", max_empty_rate=0.1)


def test_results_stay_readable_and_other_tools_see_no_success(tmp_path: Path) -> None:
    accepted = make_job(open_store(str(tmp_path)), [[0, 1, 2]], job_id="accepted")
    assert succeed(accepted).num_error_rows == 0
    assert accepted.store.get(f"accepted/{keys.SUCCESS}") is not None

    rejected = make_job(open_store(str(tmp_path)), [list(range(20))], job_id="rejected")
    assert succeed(rejected).num_error_rows == 3, "15 %, where 5 % are allowed"
    terminal = rejected.terminal()
    assert isinstance(terminal, Succeeded)
    assert terminal.manifest.crossed_gates
    assert rejected.store.get(f"rejected/{keys.SUCCESS}") is None
    results = open_results(rejected)
    assert results.complete
    assert sum(table.num_rows for table in results.tables(verify=True)) == 20


def test_commits_from_before_the_gates_are_read(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "demo")
    stats = ShardStats.of(
        b"rows",
        rows=3,
        error_codes={"ENGINE_ERROR": 1},
        input_tokens=5,
        generated_tokens=6,
        cut=1,
        empty=2,
        valid_json=1,
    )
    metadata = stats.to_metadata("attempt-1")
    ledger.commit(0, b"rows", stats, attempt_id="attempt-1")
    now = ledger.shard_commit(0)
    assert (now.num_length_rows, now.num_empty_rows, now.num_valid_json_rows) == (1, 2, 1)

    old = {key: value for key, value in metadata.items() if key not in ("length-rows", "empty-rows", "valid-json-rows")}
    assert len(old) == len(metadata) - 3
    ledger.store.put_new(f"demo/{keys.result(1)}", b"rows", writer="attempt-1", metadata=old)
    before = ledger.shard_commit(1)
    assert (before.num_rows, before.num_length_rows, before.num_empty_rows, before.num_valid_json_rows) == (3, 0, 0, 0)


def test_an_answer_without_its_form_is_no_valid_json() -> None:
    shard = ShardCommit(
        index=0, key="k", num_rows=1_000, num_error_rows=200, error_codes={"INVALID_FORM": 100, "EMPTY_PROMPT": 100},
        num_input_tokens=0, num_generated_tokens=0, size_bytes=1, sha256="0", attempt_id="a",
    )  # fmt: skip
    counts = COUNTS.evolve(shards=(shard,))
    spec = spec_of(max_error_rate=1.0)
    assert judged(spec.evolve(min_valid_json_rate=0.8), counts).crossed_gates == ()
    [gate] = judged(spec.evolve(min_valid_json_rate=0.81), counts).crossed_gates
    assert (gate.num_rows, gate.of_rows) == (720, 900)
