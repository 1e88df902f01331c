"""A job with results and a history that were written as a driver writes them, with numbers that a test can check."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa

from jobs.ledger import Ledger
from jobs.store.local import LocalStore
from schemas.commits import ShardStats
from schemas.history import History, Loss, Sample
from schemas.records import Progress
from tests.unit.results.ledgers import plan_of, result_rows, spec_of
from workers.shards.results import write_parquet

HOSTILE = "<script>alert('xss')</script>&\"><img src=x onerror=alert(1)>"
SHARDS = [range(400), range(400, 1000), range(1000, 1200)]
BEGAN_AT = 1_790_000_000.0


def rows_of(row_ids: Sequence[int]) -> pa.Table:
    """Rows whose lengths spread; row 0 answers with markup."""
    dice = random.Random(row_ids[0])
    table = result_rows(row_ids)
    rows = table.to_pylist()
    for row in rows:
        row["num_input_tokens"] = int(dice.lognormvariate(5.5, 0.5))
        if row["row_id"] == 0:
            row |= {"generated_text": HOSTILE, "custom_id": HOSTILE}
        if row["status"] == "ok":
            row["num_generated_tokens"] = min(256, int(dice.lognormvariate(4.4, 0.6)) + 1)
            row["finish_reason"] = "length" if row["num_generated_tokens"] == 256 else "stop"
        elif row["row_id"] % 2:
            row["error_code"] = "CONTEXT_LENGTH_EXCEEDED"
    return pa.Table.from_pylist(rows, table.schema)


def history(driver: str, began_at: float, *, seconds: int, gpus: int = 1, replicas: int = 4) -> History:
    """Replicas load, work, one of them dies and comes back; the last ones idle."""
    dice = random.Random(driver)
    samples, read, written = [], 0, 0
    for number in range(seconds // 2):
        at = number * 2
        letters = ["w" if at < 10 else "l" if at < 60 + 8 * place else "b" for place in range(replicas)]
        if seconds // 2 < at < seconds // 2 + 20:
            letters[1] = "x" if at < seconds // 2 + 6 else "l"
        if at > seconds - 30:
            letters = ["b" if place == 0 else "i" for place in range(replicas)]
        pace = letters.count("b") * dice.uniform(0.8, 1.1)
        read, written = read + int(pace * 2 * 2400), written + int(pace * 2 * 900)
        samples.append(
            Sample(
                at=began_at + at,
                rows_ok=written // 180,
                rows_error=written // 2400,
                input_tokens=read,
                generated_tokens=written,
                cached_tokens=read // 3,
                gpu_s=gpus * replicas * max(0.0, at - 10.0),
                eta_s=None if at < 100 else max(0.0, (seconds - at) * dice.uniform(0.9, 1.25)),
                replicas="".join(letters),
            )
        )
    return History(
        driver=driver,
        samples=tuple(samples),
        losses=(Loss(at=began_at + seconds / 2, slot=1, node="gpu-7", reason=f"ActorDiedError: killed {HOSTILE}"),),
        num_slots=replicas,
        gpus_per_replica=gpus,
        engine={"max_num_seqs": 512, "max_model_len": 8192, "dtype": "torch.bfloat16"},
        versions={"python": "3.12.1", "vllm": "0.26.0", "ray": "2.60.0"},
    )


def make_job_with_past(store: LocalStore, job_id: str, *, commit: Sequence[int] = (0, 1, 2)) -> Ledger:
    """A job of 1,200 rows with the history of one driver; `commit` says which shards are committed."""
    ledger = Ledger(store, job_id)
    ledger.create(spec_of(name="reviews, nightly"), writer="test")
    ledger.create_plan(plan_of(SHARDS), writer="test")
    for index in commit:
        table = rows_of(SHARDS[index])
        data = write_parquet(table)
        codes = {code: count for code, count in _counts(table).items() if code is not None}
        cut = table["finish_reason"].to_pylist().count("length")
        stats = ShardStats.of(data, rows=len(table), error_codes=codes, input_tokens=10, generated_tokens=20, cut=cut)
        ledger.commit(index, data, stats, attempt_id=f"attempt-{index}")
    past = history(job_id, BEGAN_AT, seconds=900)
    ledger.write_history(past)
    ledger.write_progress(
        Progress(
            driver=job_id,
            updated_at="2026-03-01T02:00:00+00:00",
            started_at="",
            phase="ended",
            gpu_s=3560.0,
            engine_s=1000.0,
            engine_idle_s=25.0,
            planned_s=100.0,
            took_s=112.0,
            tail_s=9.0,
        )
    )
    return ledger


def _counts(table: pa.Table) -> dict[str | None, int]:
    return {pair["values"]: pair["counts"] for pair in table["error_code"].value_counts().to_pylist()}
