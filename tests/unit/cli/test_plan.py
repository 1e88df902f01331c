"""`jobs plan` as people read it: what is measured, what is assumed, and nothing that nobody has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import __version__
from jobs.cli import main
from jobs.models.encoding import BYTES_MODEL
from jobs.planning.throughput import remember
from jobs.pools.book import PoolBook
from jobs.spec.build import build_spec
from jobs.store import open_store
from schemas.pools import PoolJob, PoolRange, PoolReplica, PoolSpec, PoolState
from schemas.spec import EngineSpec, ModelSpec
from schemas.throughput import Observation


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    prompts = ["a prefix that every one of these rows has, then its number: " + str(n) for n in range(100)]
    pq.write_table(pa.table({"prompt": ["", "x" * 5_000, *prompts]}), tmp_path / "rows.parquet")
    return str(tmp_path / "rows.parquet")


PLAN = ("--engine", "fake", "--no-chat", "--max-tokens", "100", "--max-model-len", "1000", "--gpu-price", "2.5")


def observe(root: Path, dataset: str, hardware: str, *, name: str = "rows", at: str = "2026-03-01") -> None:
    observation = Observation(
        job_id=f"job-{hardware}",
        name=name,
        at=at,
        start_s=30.0,
        engine_s=100.0,
        computed_tokens=1_000,
        generated_tokens=500,
        allowed_tokens=1_000,
    )
    remember(open_store(str(root)), build_spec(dataset, {"engine.name": "fake"}), hardware, observation)


def test_where_nothing_was_observed_no_time_and_no_cost_are_told(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", dataset, *PLAN, "--output", "table"]) == 0
    told = capsys.readouterr()
    lines = {line.split("  ")[0]: line for line in told.out.splitlines()}
    assert "1 CONTEXT_LENGTH_EXCEEDED" in lines["error rows"]
    assert "up to 10,000 (if all rows reach max_tokens)" in lines["output tokens"]
    assert lines["throughput"].endswith("unknown")
    assert lines["time"].endswith("unknown")
    assert "cost" not in lines
    assert "--tokens-per-s" in told.err


def test_earlier_jobs_are_what_time_and_cost_follow_from(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observe(tmp_path / "root", dataset, "H200")
    observe(tmp_path / "root", dataset, "H100", at="2026-03-02")
    assert main(["plan", dataset, *PLAN, "--replicas", "2", "--output", "table"]) == 0
    told = capsys.readouterr()
    lines = {line.split("  ")[0]: line for line in told.out.splitlines()}
    assert (
        "10 tokens/s per replica, 30 s to start (as in job-H100 on H100; their rows were of another length"
        in lines["throughput"]
    )
    assert "about 5,000 (50 % of max_tokens, as in earlier jobs of this name" in lines["output tokens"]
    assert "about" in lines["time"]
    assert "about" in lines["cost"]
    assert "10 on H200" in told.err
    assert main(["plan", dataset, *PLAN, "--replicas", "2", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    work = numbers["input_tokens"] - numbers["shared_input_tokens"] + 5_000
    assert numbers["eta_s"] == pytest.approx(30 + work / 10 / 2)
    assert numbers["cost"] == pytest.approx(2.5 * 2 * numbers["eta_s"] / 3600)
    assert numbers["shared_input_tokens"] == 99 * 48


def test_a_model_over_several_gpus_is_told_with_what_was_measured(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", dataset, *PLAN, "--replicas", "3", "--output", "table"]) == 0
    told = capsys.readouterr()
    assert "GPUs" not in told.out
    assert "--tensor-parallel" not in told.err
    assert main(["plan", dataset, *PLAN, "--replicas", "3", "--tensor-parallel", "2", "--output", "table"]) == 0
    told = capsys.readouterr()
    lines = {line.split("  ")[0]: line for line in told.out.splitlines()}
    assert lines["replicas"].endswith("3, each on 2 GPUs")
    assert "instead of --tensor-parallel" in told.err


def test_rows_that_are_cut_and_rows_that_are_left_out_are_counted(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", dataset, *PLAN, "--truncate", "prompt=middle", "--where", "prompt!="]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out 1 row, by --where" in shown
    assert "cut rows 1 row, without the middle of 'prompt'" in shown
    assert "error rows none" in shown
    assert main(["plan", dataset, *PLAN, "--truncate", "prompt=tail", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["truncated_rows"], told["unmatched_rows"], told["rows"]) == (1, 0, 102)
    assert main(["plan", dataset, *PLAN]) == 0
    assert "cut rows" not in capsys.readouterr().out


def test_a_job_that_will_not_fit_its_limits_has_an_exit_code_of_its_own(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--tokens-per-s", "10")
    assert main(["plan", dataset, *PLAN, *rate, "--finish-within", "10h", "--max-gpu-hours", "100"]) == 0
    assert "It fits" in capsys.readouterr().err
    assert main(["plan", dataset, *PLAN, *rate, "--finish-within", "2m"]) == 5
    said = capsys.readouterr()
    assert "It will not fit" in said.err
    assert "replicas it would" in said.err
    assert main(["plan", dataset, *PLAN, *rate, "--max-gpu-hours", "0.01", "-o", "json"]) == 5
    (limit,) = json.loads(capsys.readouterr().out)["limits"]
    assert (limit["kind"], limit["fits"]) == ("gpu-hours", "no")
    assert limit["excess"] == pytest.approx(limit["likely"] - 0.01)
    assert main(["plan", dataset, *PLAN, "--finish-within", "2m"]) == 0, "nothing is known, and that is said"
    assert "not known" in capsys.readouterr().err
    assert main(["plan", dataset, *PLAN, "--max-cost", "5"]) == 2
    assert "price" in capsys.readouterr().err


def test_a_pool_is_told_with_its_loaded_engines_and_what_its_jobs_leave(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, model = EngineSpec(name="fake", max_model_len=1000), ModelSpec(path=BYTES_MODEL)
    spec = PoolSpec(
        name="chat", model=model, engine=engine, replicas=PoolRange(min=0, max=2), version=__version__, created_at=""
    )
    book = PoolBook(open_store(str(tmp_path / "root")))
    book.create(spec)
    observe(tmp_path / "root", dataset, "H200")
    plan = ("plan", dataset, "--no-chat", "--max-tokens", "100", "--pool", "chat", "--weight", "3")

    def told(*options: str) -> dict[str, object]:
        assert main([*plan, *options, "-o", "json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    cold = told()
    assert cold["pool"] == {"pool": "chat", "ready": 0, "jobs": 0, "share": 1.0}
    assert cold["start_s"] == 30
    state = PoolState(pool="chat", generation=1, driver="d", phase="up", updated_at="", started_at="")
    ready = (PoolReplica(replica="replica-0", generation=1, state="ready"),)
    others = (
        PoolJob(job_id="alike", priority="normal", weight=1, rows_left=5),
        PoolJob(job_id="below", priority="bulk", weight=9, rows_left=5),
        PoolJob(job_id="done", priority="normal", weight=9, rows_left=0),
    )
    book.write_state(state.evolve(replicas=ready, jobs=others))
    warm = told()
    assert warm["pool"] == {"pool": "chat", "ready": 1, "jobs": 2, "share": pytest.approx(0.95 * 0.75)}
    assert warm["start_s"] == 0
    eta_s, high_s = warm["eta_s"], warm["eta_high_s"]
    assert isinstance(eta_s, float)
    assert isinstance(high_s, float)
    assert eta_s == pytest.approx(cold["eta_s"] - 30)  # type: ignore[operator]
    assert high_s >= eta_s / (0.95 * 0.75)
    assert told("--priority", "bulk")["pool"]["share"] == pytest.approx(0.05 * 3 / 12)  # type: ignore[index]
    assert told("--priority", "urgent")["pool"]["share"] == pytest.approx(0.9)  # type: ignore[index]
    assert main([*plan, "-o", "table"]) == 0
    assert "1 replica ready, 2 other jobs with rows; while they have some, this one gets 71" in capsys.readouterr().out
