"""What people read while a job runs and when it has ended."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from jobs.client import JobStatus
from jobs.errors import Exit
from jobs.results.gates import judged
from jobs.status.display import facts, next_steps, one_line, outcome, picture, signature
from jobs.status.job_status import ended_state
from jobs.status.summary import Summary, summarise
from jobs.text import duration, printable
from schemas.codes import State
from schemas.records import Cancelled, Failed, Manifest, Progress, ReplicaProgress, Succeeded
from tests.unit.results.ledgers import plan_of, spec_of

PROGRESS = Progress(
    driver="demo",
    updated_at="2026-03-01T02:05:00+00:00",
    started_at="2026-03-01T02:00:00+00:00",
    phase="running",
    rows_total=30,
    rows_staged=30,
    rows_ok=17,
    rows_error=2,
    shards_total=3,
    shards_committed=1,
    input_tokens=120_000,
    generated_tokens=4_500,
    input_tokens_per_s=1204.4,
    generated_tokens_per_s=310.2,
    engine_input_tokens=120_000,
    cached_tokens=45_600,
    eta_s=100.2,
    eta_low_s=80.0,
    eta_high_s=140.0,
    error_codes={"EMPTY_PROMPT": 1, "ENGINE_ERROR": 1},
    gpu_s=5400.0,
    replicas=(
        ReplicaProgress(replica="replica-0", state="ready", since_s=120),
        ReplicaProgress(replica="replica-1", state="ready", since_s=118),
        ReplicaProgress(replica="replica-2.1", state="loading", since_s=38.4, note="model"),
        ReplicaProgress(replica="replica-3", state="waiting", since_s=5, note="for 1 GPU"),
        ReplicaProgress(replica="replica-4", state="waiting", since_s=95, note="for 1 GPU"),
        ReplicaProgress(replica="replica-5", state="lost", since_s=2, note="killed\x1b[31m by signal 9"),
    ),
)
MANIFEST = Manifest(
    job_id="demo",
    plan_sha256="0",
    shards=(),
    num_rows=30,
    num_error_rows=2,
    num_input_tokens=200_000,
    num_generated_tokens=9_000,
)


def status_of(state: State = State.RUNNING, **changes: object) -> JobStatus:
    at_work = state in (State.QUEUED, State.PLANNING, State.RUNNING)
    status = JobStatus(
        job_id="demo",
        uri="/root/demo",
        state=state,
        spec=spec_of(),
        created_at=datetime(2026, 3, 1, 2, tzinfo=UTC),
        terminal=None,
        plan=plan_of([range(10), range(10, 20), range(20, 30)]),
        progress=PROGRESS,
        driver_alive=at_work,
        driver="demo" if at_work else None,
        dashboard_url="http://127.0.0.1:8265/#/jobs/demo" if at_work else None,
    )
    return replace(status, **changes)  # type: ignore[arg-type]


def summary_of(state: State = State.RUNNING, **changes: object) -> Summary:
    return summarise(status_of(state, **changes))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-3, "0 s"), (0, "0 s"), (38.4, "38 s"), (59.7, "1 min"), (100, "1 min 40 s")),
        *((7500, "2 h 5 min"), (7205, "2 h"), (273_600, "3 d 4 h")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_idle_engines_and_the_tail_are_told_when_there_is_something_to_tell() -> None:
    quiet = summary_of()
    assert not {"GPU idle", "slowest 5 %"} & facts(quiet).keys()
    told = facts(replace(quiet, engine_s=600.0, engine_idle_s=6.0, tail_s=12.2, shard_copies=3))
    assert told["GPU idle"] == "6.0 s of 10 min (1 %)"
    assert told["slowest 5 %"] == "12 s · 3 shards copied to idle replicas"
    assert facts(replace(quiet, engine_s=12.0, engine_idle_s=0.2))["GPU idle"] == "0.2 of 12 s (1.7 %)"
    assert facts(replace(quiet, engine_s=0.25, engine_idle_s=0.2))["GPU idle"] == "0.2 of 0.2 s (80 %)"
    assert facts(replace(quiet, engine_s=4000.0, engine_idle_s=70.0))["GPU idle"] == "1 min 10 s of 1 h 6 min (1.8 %)"


def test_what_was_predicted_and_how_far_off_it_was() -> None:
    running = replace(summary_of(), planned_s=120.0)
    assert facts(running)["predicted"] == "2 min, from earlier jobs"
    ended = replace(running, took_s=132.0)
    assert facts(ended)["predicted"] == "2 min; took 2 min 12 s"
    assert ended.to_dict()["plan_error"] == pytest.approx(0.1)
    assert summary_of().to_dict()["plan_error"] is None


def test_a_running_job() -> None:
    replicas = (
        "2 ready · 1 loading model, 38 s · 2 waiting, up to 1 min 35 s (for 1 GPU) · "
        "1 lost, 2 s (killed�[31m by signal 9)"
    )
    assert facts(summary_of()) == {
        "rows": "19 of 30 (63 %): 17 ok, 2 failed, 11 left",
        "shards": "1 of 3 committed",
        "errors": "1 EMPTY_PROMPT, 1 ENGINE_ERROR",
        "tokens": "120,000 in, 4,500 out · 1,204/s in, 310/s out · 38 % of the input from the prefix cache",
        "replicas": replicas,
        "ETA": "1 min 40 s (1 min 20 s to 2 min 20 s)",
        "cost": "1 h 30 min of GPU time",
    }
    assert one_line(summary_of()) == (
        "RUNNING · 19 of 30 rows (63 %) · 2 failed (1 EMPTY_PROMPT, 1 ENGINE_ERROR) · 1 of 3 shards · "
        f"1,204 tokens/s in, 310 out · replicas: {replicas} · ETA 1 min 40 s (1 min 20 s to 2 min 20 s)"
    )
    assert next_steps(summary_of()) == ["jobs watch demo", "jobs logs -f demo", "jobs cancel demo"]


def frame(summary: Summary) -> list[str]:
    """The lines that a terminal of 90 columns shows."""
    console = Console(file=io.StringIO(), width=90, color_system=None, force_terminal=False)
    console.print(picture(summary))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_live_picture() -> None:
    three = PROGRESS.evolve(replicas=(*PROGRESS.replicas[:2], PROGRESS.replicas[2].evolve(restarts=1)), cached_tokens=0)
    assert frame(summarise(status_of(progress=three), gpu_hour_price=2.5)) == [
        "RUNNING  demo  http://127.0.0.1:8265/#/jobs/demo",
        "          ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "rows      19 of 30 (63 %): 17 ok, 2 failed, 11 left",
        "errors    1 EMPTY_PROMPT, 1 ENGINE_ERROR",
        "shards    1 of 3 committed",
        "tokens    120,000 in, 4,500 out · 1,204/s in, 310/s out",
        "replicas  2 ready · 1 loading model, 38 s · 1 replaced so far",
        "ETA       1 min 40 s (1 min 20 s to 2 min 20 s)",
        "cost      3.75 for 1 h 30 min of GPU time",
    ]


def test_the_live_picture_while_there_is_nothing_yet() -> None:
    loading = ReplicaProgress(replica="replica-0", state="loading", since_s=38.4, note="model")
    young = Progress(
        driver="demo", updated_at="", started_at="", phase="running", rows_total=30, shards_total=3, replicas=(loading,)
    )
    assert frame(summary_of(progress=young)) == [
        "RUNNING  demo  http://127.0.0.1:8265/#/jobs/demo",
        "",
        "rows      0 of 30 (0 %): 0 ok, 30 left",
        "shards    0 of 3 committed",
        "replicas  1 loading model, 38 s",
        "ETA       unknown until rows are done",
    ]


@pytest.mark.parametrize(
    ("low_s", "high_s", "text"),
    [
        (None, None, "about 1 min 40 s"),
        (60.0, None, "1 min 40 s (at least 1 min)"),
        (100.0, 100.3, "1 min 40 s"),
    ],
)
def test_an_eta_says_how_sure_it_is(low_s: float | None, high_s: float | None, text: str) -> None:
    assert facts(summary_of(progress=PROGRESS.evolve(eta_low_s=low_s, eta_high_s=high_s)))["ETA"] == text


def test_before_there_is_a_plan() -> None:
    staging = PROGRESS.evolve(phase="staging", rows_total=None, shards_total=None, rows_ok=0, rows_error=0, eta_s=None)
    planning = summary_of(State.PLANNING, plan=None, progress=staging)
    assert one_line(planning).startswith("PLANNING · reading and tokenising the dataset · 1,204 tokens/s in")
    assert one_line(summary_of(State.QUEUED, plan=None, progress=None)) == (
        "QUEUED · waiting for the cluster to start a driver"
    )
    orphan = summary_of(State.QUEUED, plan=None, progress=None, driver_alive=False, driver=None)
    assert one_line(orphan) == "QUEUED · no driver has been started"
    assert next_steps(orphan)[0] == "jobs resume demo"


def test_words_of_an_earlier_driver_are_not_the_present() -> None:
    resumed = summary_of(driver="demo-a1b2c3")
    assert one_line(resumed) == (
        "RUNNING · the driver is starting · 19 of 30 rows (63 %) · 2 failed (1 EMPTY_PROMPT, 1 ENGINE_ERROR) · "
        "1 of 3 shards"
    )


def test_all_rows_mean_100_percent_and_nothing_less() -> None:
    nearly = PROGRESS.evolve(rows_total=1000, rows_ok=999, rows_error=0)
    assert "999 of 1,000 (99 %)" in facts(summary_of(plan=None, progress=nearly))["rows"]


@pytest.mark.parametrize(
    ("errors", "code", "words"),
    [
        (0, Exit.OK, "Job demo succeeded: 30 rows, all ok."),
        (1, Exit.OK, "Job demo succeeded: 30 rows, 1 of them failed (3.3 %)."),
        (
            2,
            Exit.GATE_CROSSED,
            "Job demo did not pass its gate: 2 of 30 rows are errors (6.667 %; max_error_rate allows at most 5 %). "
            "All results are kept.",
        ),
    ],
)
def test_success_with_and_without_errors(errors: int, code: Exit, words: str) -> None:
    terminal = Succeeded(manifest=judged(spec_of(), MANIFEST.evolve(num_error_rows=errors)))
    ended = summary_of(ended_state(terminal), terminal=terminal)
    assert ended.state is (State.GATE_FAILED if code is Exit.GATE_CROSSED else State.SUCCEEDED)
    assert (ended.exit_code, outcome(ended)) == (code, words)
    assert (ended.rows_done, ended.rows_error, ended.replicas, ended.eta_s) == (30, errors, (), None)
    assert next_steps(ended) == ["jobs results demo"] + ["jobs results demo --failed"] * bool(errors)


def test_other_ends() -> None:
    failed = summary_of(State.FAILED, terminal=Failed(code="ENGINE_DIED", reason="It died. See: jobs logs demo"))
    assert outcome(failed) == "Job demo failed, 1 of 3 shards committed. ENGINE_DIED: It died. See: jobs logs demo"
    cancelled = summary_of(State.CANCELLED, terminal=Cancelled(by="ada"))
    assert outcome(cancelled) == "Job demo was cancelled by ada, 1 of 3 shards committed."
    interrupted = summary_of(State.INTERRUPTED)
    assert outcome(interrupted).startswith("Job demo was interrupted, 1 of 3 shards committed. Rows done are kept")
    assert next_steps(interrupted)[0] == "jobs resume demo"
    assert {s.exit_code for s in (failed, cancelled, interrupted)} == {Exit.JOB_FAILED}


def test_a_dead_drivers_uncommitted_rows_do_not_count() -> None:
    summary = summarise(status_of(State.INTERRUPTED), committed={0})
    assert (summary.rows_done, summary.rows_ok, summary.rows_error, summary.shards_committed) == (10, 8, 2, 1)


def test_rows_done_are_those_that_are_kept() -> None:
    """Committed or salvaged; what waits for its shard's commit stands beside them, while a driver is at work."""
    progress = PROGRESS.evolve(rows_ok=11, rows_error=2, rows_salvaged=3, rows_uncommitted=6)
    running = summarise(status_of(progress=progress), committed={0})
    assert (running.rows_done, running.rows_uncommitted) == (13, 6)
    assert facts(running)["rows"].endswith("17 left")
    assert facts(running)["in progress"] == "6 finished, not committed yet"
    busy = progress.evolve(replicas=(PROGRESS.replicas[0].evolve(rows_in_flight=9),))
    assert (
        facts(summarise(status_of(progress=busy)))["in progress"] == "9 being computed, 6 finished, not committed yet"
    )
    assert "13 of 30 rows (43 %) · 6 finished, not committed" in one_line(running)
    assert signature(running) != signature(summarise(status_of(progress=progress.evolve(rows_uncommitted=7))))
    ahead = summarise(status_of(progress=progress), committed={0, 1})
    assert ahead.rows_done == 20, "the store knows of a commit before the driver says so"
    for state in (State.INTERRUPTED, State.CANCELLED):
        ended = status_of(state, progress=progress, salvaged={0: 7, 2: 4}, terminal=None)
        summary = summarise(ended, committed={0})
        assert (summary.rows_done, summary.rows_uncommitted) == (14, 0), "the salvage of a committed shard is ignored"
    nothing = summarise(status_of(State.CANCELLED, salvaged={2: 4}, terminal=Cancelled(by="ada")), committed=set())
    assert next_steps(nothing) == ["jobs results demo"]


def test_time_alone_is_no_news() -> None:
    later = PROGRESS.evolve(replicas=tuple(r.evolve(since_s=r.since_s + 9) for r in PROGRESS.replicas), eta_s=90.0)
    assert signature(summary_of()) == signature(summary_of(progress=later))
    assert signature(summary_of()) != signature(summary_of(progress=PROGRESS.evolve(rows_ok=18)))
    fewer = PROGRESS.evolve(replicas=PROGRESS.replicas[1:])
    assert signature(summary_of()) != signature(summary_of(progress=fewer))


def test_foreign_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\nc\u202e") == "a�]0;title�b c�"


def test_json_form_is_complete_and_stable() -> None:
    assert list(summary_of().to_dict()) == [
        *("job_id", "state", "name", "dataset", "model", "engine", "driver_alive", "created_at"),
        *("uri", "results_uri", "dashboard_url", "phase"),
        *(
            "rows_total",
            "rows_done",
            "rows_ok",
            "rows_error",
            "rows_uncommitted",
            "error_codes",
            "rows_staged",
            "rows_reused",
            "rows_repeated",
            "shards_total",
            "shards_committed",
        ),
        *("input_tokens", "generated_tokens", "input_tokens_per_s", "generated_tokens_per_s", "cached_share"),
        *("eta_s", "eta_low_s", "eta_high_s"),
        *("planned_s", "took_s", "tail_s", "shard_copies", "engine_s", "engine_idle_s", "gpu_s", "cost"),
        *(
            "error_rate",
            "max_error_rate",
            "quality",
            "crossed_gates",
            "failure_code",
            "failure_reason",
            "cancelled_by",
            *("duration_s", "schedule", "retry_of", "reason", "hint", "damage"),
            "message",
            "updated_at",
        ),
        *("exports", "limits", "limit_notices", "paused_by", "tables"),
        *("replicas", "rows_computing", "replica_counts", "plan_error"),
    ]
