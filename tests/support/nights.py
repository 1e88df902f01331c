"""A month of nights as their schedulers and drivers leave it in a store, without a cluster and without a wait.

    python -m tests.support.nights ROOT      # keeps a job and a pool at work until Ctrl-C

Everything is written by the product's own code; only the times of the objects are set back. Rows are few, so that
reports, samples and comparisons of any night work. `ROOT` is a directory.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from jobs.ledger import Ledger
from jobs.pools.book import PoolBook
from jobs.results.gates import describe, judged
from jobs.schedules.book import Book
from jobs.schedules.calendar import Calendar
from jobs.status.liveness import this_process
from jobs.status.quality import quality_of
from jobs.store.local import LocalStore
from schemas import keys
from schemas.codes import InterruptionCode
from schemas.commits import ShardStats
from schemas.pools import PoolDown, PoolJob, PoolRange, PoolReplica, PoolSpec, PoolState
from schemas.records import Cancelled, CrossedGate, Failed, Interruption, Manifest, Progress, ReplicaProgress, Succeeded
from schemas.schedules import Pointer, Run, RunOutcome, Schedule
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec
from tests.unit.report.jobs_with_past import history
from tests.unit.results.ledgers import plan_of, result_rows
from workers.shards.results import write_parquet

SHARDS = (range(400), range(400, 1000), range(1000, 1200))
SECRET = "the prompt that no page shows unless asked"
"""Kept column `tags` of every row: what a page must not show by itself."""

MISSING, FAILED, GATED, NO_INPUT, LATE, SKIPPED, CANCELLED, RUN_AGAIN = 16, 4, 9, 6, 12, 20, 23, 18
"""How many nights ago each of these happened to the schedule `reviews`; all its other nights are good."""


@dataclass(frozen=True)
class Night:
    """One run: how long its job took, and what share of its rows went wrong."""

    hours: float = 1.8
    errors: float = 0.004
    cut: float = 0.02


def schedules(root: Path, now: datetime, *, nights: int = 31) -> None:
    """Write three schedules and what came of them up to `now`: `reviews`, mostly good; `claims`, whose last nights went
    wrong and whose run of tonight is late and at work; `tickets`, four times a day."""
    store = LocalStore(root)
    _reviews(store, now, nights)
    _claims(store, now, min(nights, 12))
    _tickets(store, now, min(nights, 4))


def _reviews(store: LocalStore, now: datetime, nights: int) -> None:
    schedule = _schedule("reviews", "0 2 * * *", now, nights, max_error_rate=0.05, deadline_s=4 * 3600)
    dues = _dues(schedule, now)
    for ago, due in enumerate(reversed(dues)):
        if ago == MISSING:
            continue
        night = Night(hours=1.5 + random.Random(ago).random())
        match ago:
            case 4:
                text = "The engine did not start: CUDA out of memory on gpu-3 with max_num_seqs 512."
                _fail(store, schedule, due, "ENGINE_START_FAILED", f"{text} Lower it, or free the GPU.")
            case 6:
                run = _open(store, schedule, due)
                reason = f"There was nothing at s3://in/reviews/date={run.logical_date}/_SUCCESS after 3 h."
                Book(store).settle(run, RunOutcome(kind="late", at=due + timedelta(hours=3), reason=reason))
            case 9:
                _succeed(store, schedule, due, Night(hours=2.1, errors=0.12))
            case 12:
                _succeed(store, schedule, due, Night(hours=5.2), late=True)
            case 18:
                _fail(store, schedule, due, "MODEL_CHANGED", "The model directory has other weights than at submit.")
                _succeed(store, schedule, due, night, round_=2)
            case 20:
                run = _open(store, schedule, due)
                reason = "The run before it was not done, and the schedule skips then."
                Book(store).settle(run, RunOutcome(kind="skipped", at=due, reason=reason))
            case 23:
                _cancel(store, schedule, due, "anna")
            case _:
                _succeed(store, schedule, due, night)


def _claims(store: LocalStore, now: datetime, nights: int) -> None:
    schedule = _schedule("claims", "30 3 * * *", now, nights, max_length_finish_rate=0.1, deadline_s=2 * 3600)
    for ago, due in enumerate(reversed(_dues(schedule, now))):
        if ago == 0:
            run = _open(store, schedule, due)
            at_work(store, run.job_id, run.spec, due + timedelta(minutes=2))
            Book(store).mark_late(run, due + timedelta(hours=2))
        elif ago == 1:
            _succeed(store, schedule, due, Night(cut=0.19))
        elif ago == 2:
            _fail(store, schedule, due, "INVALID_INPUT", "s3://in/claims/part-3.parquet has no column 'prompt'.")
        else:
            _succeed(store, schedule, due, Night(hours=0.6, cut=0.01))


def _tickets(store: LocalStore, now: datetime, nights: int) -> None:
    schedule = _schedule("tickets", "15 */6 * * *", now, nights)
    for ago, due in enumerate(reversed(_dues(schedule, now))):
        if ago == 7:
            _fail(store, schedule, due, "SHARD_FAILED", "Shard 1 failed five times: the node's disk is full.")
        else:
            _succeed(store, schedule, due, Night(hours=0.2, errors=0.0))


def by_hand(root: Path, now: datetime) -> None:
    """Write jobs that no schedule has submitted: interrupted, cancelled, queued, with a hostile name."""
    store = LocalStore(root)
    for job_id, hours in (("trial-20b-fp8", 30), ("trial-20b-bf16", 31)):
        spec = _spec("Trial of 20B", "s3://in/trial/").evolve(max_error_rate=1.0)
        dropped = 0.03 if job_id.endswith("fp8") else 0.004
        _computed(store, job_id, spec, now - timedelta(hours=hours), Night(hours=0.4, errors=dropped))
    ledger = _begun(store, "backfill-2025", _spec("Backfill 2025", "s3://in/2025/"), now - timedelta(hours=20), (0,))
    ledger.interrupt(
        Interruption(
            driver="backfill-2025",
            code=InterruptionCode.OUT_OF_RESOURCES,
            reason="No node has had a free GPU for 30 minutes.",
            hint="Free GPUs or add nodes, then go on where it stopped: jobs resume backfill-2025",
        )
    )
    _age(store, now - timedelta(hours=19), "backfill-2025", keys.PROGRESS)
    hostile = "<script>alert(1)</script>&\"'>"
    Ledger(store, "odd-name").create(_spec(hostile, "s3://in/<b>odd</b>/"), writer="test")
    _age(store, now - timedelta(hours=2), "odd-name", keys.SPEC)


def pools(root: Path, now: datetime) -> None:
    """Write pools: one that is up, one that was taken down, one whose driver is gone."""
    book = PoolBook(LocalStore(root))
    for name in ("chat", "bulk", "lost"):
        book.create(
            PoolSpec(
                name=name,
                model=ModelSpec(path="/models/internlm2_5-20b-chat"),
                engine=EngineSpec(),
                replicas=PoolRange(min=1, max=4),
                version="0",
                created_at=(now - timedelta(days=3)).isoformat(timespec="seconds"),
                created_by="anna",
            )
        )
    book.take_down("bulk", 1, PoolDown(by="ben", at=now.isoformat(timespec="seconds")))
    touch_pool(root)
    book.write_state(_state("lost", now))
    path = root / "_pools" / "lost" / "state.json"
    os.utime(path, times=((now - timedelta(hours=5)).timestamp(),) * 2)


def touch_pool(root: Path) -> None:
    """Let the pool's driver report again."""
    PoolBook(LocalStore(root)).write_state(_state("chat", datetime.now(UTC)))


def _state(name: str, now: datetime) -> PoolState:
    def replica(number: int, state: str, rows: int, rate: float) -> PoolReplica:
        return PoolReplica.model_validate(
            {
                "replica": f"{name}-{number}",
                "generation": 1,
                "state": state,
                "since_s": 8000.0 / number,
                "node": f"gpu-{number}",
                "rows_in_flight": rows,
                "tokens_per_s": rate,
            }
        )

    return PoolState(
        pool=name,
        generation=1,
        driver=f"pool-{name}",
        phase="up",
        updated_at=now.isoformat(timespec="seconds"),
        started_at=(now - timedelta(hours=9)).isoformat(timespec="seconds"),
        device="NVIDIA H200",
        gpus_per_replica=1,
        replicas=(replica(1, "ready", 512, 4230.0), replica(2, "ready", 498, 4105.0), replica(3, "loading", 0, 0.0)),
        jobs=(
            PoolJob(job_id="tickets", priority="urgent", weight=1.0, rows_left=320, rows_in_flight=210, share=0.62),
            PoolJob(
                job_id="trial-20b-fp8", priority="bulk", weight=2.0, rows_left=91_000, rows_in_flight=800, share=0.38
            ),
        ),
    )


def at_work(store: LocalStore, job_id: str, spec: JobSpec, began: datetime) -> Ledger:
    """Write a job that a driver, which is this process, is at work on."""
    ledger = _begun(store, job_id, spec, began, (0,))
    report(ledger, rows=640)
    return ledger


def report(ledger: Ledger, *, rows: int) -> None:
    """Let the driver of a job at work report how many rows it has done."""
    now = datetime.now(UTC)
    ledger.write_progress(
        _progress(ledger.job_id, now).evolve(
            process=this_process(),
            phase="running",
            rows_total=1200,
            rows_ok=rows - 3,
            rows_error=3,
            rows_salvaged=0,
            rows_uncommitted=min(180, 1200 - rows),
            error_codes={"CONTEXT_LENGTH_EXCEEDED": 3},
            shards_total=3,
            shards_committed=1,
            input_tokens=812 * rows,
            generated_tokens=164 * rows,
            input_tokens_per_s=9800.0,
            generated_tokens_per_s=2140.0,
            eta_s=1320.0,
            eta_low_s=1140.0,
            eta_high_s=1620.0,
            gpu_s=4 * 3.2 * 3600,
            replicas=tuple(
                ReplicaProgress(
                    replica=f"r{n}", state="ready" if n < 3 else "loading", node=f"gpu-{n}", rows_in_flight=60
                )
                for n in range(4)
            ),
        )
    )


def _schedule(name: str, cron: str, now: datetime, nights: int, **changes: object) -> Schedule:
    spec_fields = {key: changes.pop(key) for key in list(changes) if key.startswith("max_")}
    spec = _spec(name, f"s3://in/{name}/date={{{{ date }}}}/").evolve(**spec_fields)
    values = {"name": name, "cron": cron, "tz": "Europe/Berlin", "spec": spec, "catch_up": "none", **changes}
    since = now - timedelta(days=nights)
    return Schedule.model_validate({**values, "since": since, "created_at": since})


def _spec(name: str, uri: str) -> JobSpec:
    return JobSpec(
        name=name,
        input=InputSpec(uri=uri, keep=("tags", "kind", "blob")),
        model=ModelSpec(path="/models/internlm2_5-20b-chat"),
        engine=EngineSpec(name="vllm"),
    )


def _dues(schedule: Schedule, now: datetime) -> list[datetime]:
    return Calendar(schedule.cron, schedule.tz).between(schedule.since, now)


def _open(store: LocalStore, schedule: Schedule, due: datetime, round_: int = 1) -> Run:
    book = Book(store)
    book.create(schedule)
    if round_ == 1:
        return book.open(schedule, due, due + timedelta(seconds=5))
    entry = book.entry(schedule.name, Calendar(schedule.cron, schedule.tz).logical_date(due))
    assert entry is not None
    return book.reopen(schedule, entry, due + timedelta(hours=6), job_ended=True)


def _succeed(
    store: LocalStore, schedule: Schedule, due: datetime, night: Night, *, late: bool = False, round_: int = 1
) -> None:
    run = _open(store, schedule, due, round_)
    began = run.opened_at + timedelta(seconds=20)
    ended = began + timedelta(hours=night.hours)
    manifest, _ = _computed(store, run.job_id, run.spec, began, night)
    book, gates = Book(store), manifest.crossed_gates
    if late:
        book.mark_late(run, due + timedelta(seconds=schedule.deadline_s or 0.0))
    if not gates:
        book.publish(
            Pointer(
                schedule=schedule.name,
                logical_date=run.logical_date,
                job_id=run.job_id,
                uri=f"{store.uri}/{run.job_id}",
                num_rows=manifest.num_rows,
                num_error_rows=manifest.num_error_rows,
                published_at=ended + timedelta(seconds=40),
            )
        )
    book.settle(
        run,
        RunOutcome(
            kind="gate" if gates else "succeeded",
            at=ended + timedelta(seconds=45),
            reason=describe(gates),
            num_rows=manifest.num_rows,
            num_error_rows=manifest.num_error_rows,
            crossed_gates=gates,
            quality=quality_of(run.spec, Succeeded(manifest=manifest), None),
        ),
    )


def _fail(store: LocalStore, schedule: Schedule, due: datetime, code: str, reason: str) -> None:
    run = _open(store, schedule, due)
    ended = due + timedelta(minutes=14)
    ledger = _begun(store, run.job_id, run.spec, due + timedelta(seconds=20), ())
    ledger.end(Failed(code=code, reason=reason), writer="test")
    _age(store, ended, run.job_id, keys.TERMINAL, keys.PROGRESS)
    Book(store).settle(run, RunOutcome(kind="failed", at=ended, reason=f"{code}: {reason}"))


def _cancel(store: LocalStore, schedule: Schedule, due: datetime, by: str) -> None:
    run, ended = _open(store, schedule, due), due + timedelta(minutes=50)
    ledger = _begun(store, run.job_id, run.spec, due + timedelta(seconds=20), (0,))
    ledger.end(Cancelled(by=by), writer="test")
    _age(store, ended, run.job_id, keys.TERMINAL, keys.PROGRESS)
    Book(store).settle(run, RunOutcome(kind="cancelled", at=ended, reason=f"Cancelled by {by}."))


def _begun(store: LocalStore, job_id: str, spec: JobSpec, began: datetime, shards: Sequence[int]) -> Ledger:
    """A job with these shards committed, whose driver has ended."""
    ledger = Ledger(store, job_id)
    ledger.create(spec, writer="test")
    ledger.create_plan(plan_of(SHARDS), writer="test")
    for shard in shards:
        _commit(ledger, shard, Night())
    done = sum(len(SHARDS[shard]) for shard in shards)
    ledger.write_progress(
        _progress(job_id, began).evolve(
            rows_total=1200, rows_ok=done, shards_total=3, shards_committed=len(shards), gpu_s=4 * 900.0
        )
    )
    _age(store, began, job_id, keys.SPEC, keys.PROGRESS)
    return ledger


def _computed(
    store: LocalStore, job_id: str, spec: JobSpec, began: datetime, night: Night
) -> tuple[Manifest, tuple[CrossedGate, ...]]:
    """A job that has ended with a result for every row."""
    ledger = _begun(store, job_id, spec, began, ())
    for shard in range(len(SHARDS)):
        _commit(ledger, shard, night)
    commits = tuple(ledger.shard_commit(index) for index in sorted(ledger.committed()))
    counts = ("num_rows", "num_error_rows", "num_length_rows", "num_input_tokens", "num_generated_tokens")
    sums = {name: sum(getattr(each, name) for each in commits) for name in counts}
    manifest = judged(spec, Manifest(job_id=job_id, plan_sha256="0", shards=commits, **sums))
    seconds = int(night.hours * 3600)
    past = history(job_id, began.timestamp(), seconds=min(seconds, 900))
    ledger.write_history(past.evolve(losses=()))
    ledger.write_progress(
        _progress(job_id, began).evolve(
            rows_total=1200,
            rows_ok=1200 - manifest.num_error_rows,
            rows_error=manifest.num_error_rows,
            shards_total=3,
            shards_committed=3,
            input_tokens=manifest.num_input_tokens,
            generated_tokens=manifest.num_generated_tokens,
            gpu_s=4.0 * seconds,
            engine_s=3.6 * seconds,
            engine_idle_s=0.05 * seconds,
            planned_s=0.95 * seconds,
            took_s=0.98 * seconds,
            tail_s=0.06 * seconds,
        )
    )
    ledger.end(Succeeded(manifest=manifest), writer="test")
    _age(store, began + timedelta(seconds=seconds), job_id, keys.TERMINAL, keys.PROGRESS)
    return manifest, manifest.crossed_gates


def _commit(ledger: Ledger, shard: int, night: Night) -> None:
    dice = random.Random(f"{ledger.job_id} {shard}")
    rows = []
    for row in result_rows(SHARDS[shard]).to_pylist():
        length = dice.random() < night.cut
        row |= {"status": "ok", "error_code": None, "error_message": None, "generated_text": f"Answer {row['row_id']}."}
        row |= {"finish_reason": "length" if length else "stop", "tags": [SECRET]}
        row |= {"num_input_tokens": int(dice.lognormvariate(6, 0.5)), "num_generated_tokens": dice.randint(20, 256)}
        if dice.random() < night.errors:
            code, message = dice.choice(
                [
                    ("CONTEXT_LENGTH_EXCEEDED", "The prompt has 9,812 tokens, and 8,192 fit with the answer."),
                    ("EMPTY_PROMPT", "The prompt is empty."),
                ]
            )
            row |= {"status": "error", "error_code": code, "error_message": message, "finish_reason": "error"}
            row |= {"generated_text": None, "num_generated_tokens": 0}
        rows.append(row)
    table = pa.Table.from_pylist(rows, result_rows(SHARDS[shard]).schema)
    data = write_parquet(table)
    stats = ShardStats.of(
        data,
        rows=len(table),
        error_codes=Counter(code for code in table["error_code"].to_pylist() if code),
        input_tokens=sum(table["num_input_tokens"].to_pylist()),
        generated_tokens=sum(table["num_generated_tokens"].to_pylist()),
        cut=table["finish_reason"].to_pylist().count("length"),
    )
    ledger.commit(shard, data, stats, attempt_id=f"attempt-{shard}")


def _progress(job_id: str, at: datetime) -> Progress:
    moment = at.isoformat(timespec="seconds")
    return Progress(driver=job_id, updated_at=moment, started_at=moment, phase="ended")


def _age(store: LocalStore, at: datetime, job_id: str, *documents: str) -> None:
    """Set back when these documents of a job were written."""
    for document in documents:
        os.utime(Path(store.uri) / job_id / document, times=(at.timestamp(),) * 2)


def this_morning() -> datetime:
    """The last time that it was six o'clock, UTC: when somebody on call looks, and the drivers at work still report."""
    now = datetime.now(UTC)
    six = now.replace(hour=6, minute=0, second=0, microsecond=0)
    return six if six <= now else six - timedelta(days=1)


def month(root: Path, now: datetime | None = None, *, nights: int = 31) -> None:
    """Write all of it."""
    now = now or this_morning()
    schedules(root, now, nights=nights)
    by_hand(root, now)
    pools(root, now)


def main() -> None:
    """Write the month, and report as the drivers at work do."""
    root = Path(sys.argv[1])
    month(root)
    store = LocalStore(root)
    (ledger,) = (Ledger(store, path.name) for path in root.glob("claims-*") if _is_at_work(Ledger(store, path.name)))
    print(f"Written to {root}. Look at it: jobs ui --root {root}", flush=True)
    rows = 640
    while True:
        time.sleep(2)
        rows = 400 if rows >= 1150 else rows + 7
        report(ledger, rows=rows)
        touch_pool(root)


def _is_at_work(ledger: Ledger) -> bool:
    progress = ledger.progress()
    return progress is not None and progress.phase == "running"


if __name__ == "__main__":
    main()
