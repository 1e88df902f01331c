"""Jobs as they lie in a store, with chosen rows in chosen shards, written with the product's own writers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from jobs.ledger import Ledger
from jobs.planning.shards import row_ids_digest
from jobs.results.gates import judged
from jobs.salvage import Salvage
from jobs.store.base import ObjectStore
from schemas.commits import ShardStats
from schemas.records import InputFile, Manifest, Plan, ShardPlan, Succeeded
from schemas.spec import InputSpec, JobSpec, ModelSpec
from schemas.tables import result_schema
from workers.shards.results import write_parquet

KEPT = [
    pa.field("tags", pa.list_(pa.string())),
    pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
    pa.field("blob", pa.binary()),
]


def spec_of(**changes: object) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "demo",
            "input": InputSpec(uri="/data/demo.parquet", keep=tuple(field.name for field in KEPT)),
            "model": ModelSpec(path="builtin:bytes"),
            **changes,
        }
    )


def is_error(row_id: int) -> bool:
    return row_id % 7 == 3


def text_of(row_id: int) -> str:
    return f'answer {row_id}, "quoted", naïve\nsecond line'


def result_rows(row_ids: Sequence[int]) -> pa.Table:
    """What a shard with these rows holds; every cell follows from the row id."""
    ids = sorted(row_ids)
    errors = [is_error(i) for i in ids]
    columns = {
        "row_id": ids,
        "custom_id": [f"id-{i}" for i in ids],
        "tags": [[str(n) for n in range(i % 3)] for i in ids],
        "kind": pa.array([f"kind {i % 5}" for i in ids]).dictionary_encode(),
        "blob": [bytes([i % 256, 255]) for i in ids],
        "generated_text": [None if bad else text_of(i) for i, bad in zip(ids, errors, strict=True)],
        "finish_reason": ["error" if bad else "stop" for bad in errors],
        "num_input_tokens": [i % 100 for i in ids],
        "num_generated_tokens": [0 if bad else 5 for bad in errors],
        "status": ["error" if bad else "ok" for bad in errors],
        "error_code": ["EMPTY_PROMPT" if bad else None for bad in errors],
        "error_message": ["The prompt is empty." if bad else None for bad in errors],
        "attempts": [1] * len(ids),
    }
    schema = result_schema(spec_of(), KEPT)
    return pa.table(
        [pa.array(columns[f.name], f.type) if f.name != "kind" else columns["kind"] for f in schema], schema
    )


def plan_of(shards: Sequence[Sequence[int]]) -> Plan:
    """The plan in which shard `i` has the rows `shards[i]`."""
    num_rows = sum(map(len, shards))
    return Plan(
        spec_sha256=spec_of().digest(),
        files=(InputFile(uri="/data/demo.parquet", size_bytes=1, identity="sha256:0", num_rows=num_rows),),
        shards=tuple(
            ShardPlan(
                index=index,
                num_rows=len(rows),
                num_invalid_rows=0,
                num_input_tokens=0,
                num_expected_tokens=0,
                row_ids_sha256=row_ids_digest(np.array(sorted(rows), dtype=np.int64)),
            )
            for index, rows in enumerate(shards)
        ),
        num_rows=num_rows,
        num_invalid_rows=0,
        num_input_tokens=0,
        max_input_tokens=1,
        max_model_len=1024,
    )


def make_job(
    store: ObjectStore,
    shards: Sequence[Sequence[int]],
    *,
    commit: Iterable[int] | None = None,
    job_id: str = "demo",
    **changes: object,
) -> Ledger:
    """A job whose shard `i` has the rows `shards[i]`, with spec and plan; `commit` says which are committed."""
    ledger = Ledger(store, job_id)
    ledger.create(spec_of(**changes), writer="test")
    ledger.create_plan(plan_of(shards), writer="test")
    for index in range(len(shards)) if commit is None else commit:
        table = result_rows(shards[index])
        data = write_parquet(table)
        codes = Counter("EMPTY_PROMPT" for row in shards[index] if is_error(row))
        stats = ShardStats.of(data, rows=len(table), error_codes=codes, input_tokens=10, generated_tokens=20)
        ledger.commit(index, data, stats, attempt_id=f"attempt-{index}")
    return ledger


def salvage(ledger: Ledger, shard: int, row_ids: Sequence[int], attempt_id: str, **columns: Sequence[object]) -> None:
    """Let an attempt at a shard leave these rows; `columns` replaces values of some of them."""
    table = result_rows(row_ids)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    data = write_parquet(table)
    codes = Counter("EMPTY_PROMPT" for row in row_ids if is_error(row))
    stats = ShardStats.of(data, rows=len(table), error_codes=codes, input_tokens=10, generated_tokens=20)
    Salvage(ledger).write(shard, data, stats, attempt_id=attempt_id)


def succeed(ledger: Ledger) -> Manifest:
    """End the job well, as its driver does."""
    commits = [ledger.shard_commit(index) for index in sorted(ledger.committed())]
    manifest = Manifest(
        job_id=ledger.job_id,
        plan_sha256="0",
        shards=tuple(commits),
        num_rows=sum(c.num_rows for c in commits),
        num_error_rows=sum(c.num_error_rows for c in commits),
        num_input_tokens=sum(c.num_input_tokens for c in commits),
        num_generated_tokens=sum(c.num_generated_tokens for c in commits),
    )
    ledger.end(Succeeded(manifest=judged(ledger.spec(), manifest)), writer="test")
    return manifest
