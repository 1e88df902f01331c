"""From a shard's outputs to the bytes of its result object."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset.types import conform
from jobs.encoding import Encoder
from jobs.planner import row_ids_digest
from jobs.shard_stats import ShardStats
from schemas.records import Plan
from schemas.spec import JobSpec
from schemas.tables import KEPT, kept_fields, result_schema
from workers.engines.base import Output
from workers.feed import RowFault
from workers.result_rows import generated_row, json_text, scored_row
from workers.staged_rows import num_input_tokens, repeats, samplings

ROW_GROUP_ROWS = 8192


class ShardMismatch(Exception):
    """The rows at hand are not the rows of the plan: a bug or a damaged object, never committed."""


def encode_results(
    spec: JobSpec,
    plan: Plan,
    shard: int,
    staged: pa.Table,
    results: Mapping[int, Output | RowFault],
    encoder: Encoder,
) -> tuple[bytes, ShardStats]:
    """Result Parquet of one shard: one row per staged row, sorted by row id, nothing that varies between runs.

    Raises:
        ShardMismatch: the staged rows are not those of the plan.
    """
    staged = staged.sort_by("row_id")
    rows = _rows(spec, plan, staged, results, encoder)
    table = result_table(
        spec, plan, shard, staged, lambda field: pa.array([row.get(field.name) for row in rows], field.type)
    )
    data = write_parquet(table)
    return data, shard_stats(spec, data, rows)


def result_table(
    spec: JobSpec, plan: Plan, shard: int, staged: pa.Table, column: Callable[[pa.Field], pa.Array]
) -> pa.Table:
    """The rows of one shard's result object.

    Args:
        staged: its staged rows by row id; `row_id`, `custom_id` and the kept columns come from there.
        column: makes every other column, in the order of those rows.

    Raises:
        ShardMismatch: the staged rows are not those of the plan.
    """
    row_ids, planned = staged["row_id"].to_numpy(), plan.shards[shard]
    if len(row_ids) != planned.num_rows or row_ids_digest(row_ids) != planned.row_ids_sha256:
        raise ShardMismatch(f"shard {shard} holds {len(row_ids)} rows that are not those of the plan")
    kept = kept_fields(staged.schema)
    schema = result_schema(spec, kept, plan.row_columns)
    carried = {"row_id": "row_id", "custom_id": "custom_id"}
    carried |= {field.name: f"{KEPT}{field.name}" for field in kept if field.name != "custom_id"}
    return pa.table(
        [
            conform(staged[carried[field.name]], field.type) if field.name in carried else column(field)
            for field in schema
        ],
        schema=schema,
    )


def shard_stats(spec: JobSpec, data: bytes, rows: Sequence[Mapping[str, Any]]) -> ShardStats:
    """What the commit says of a shard.

    Args:
        data: the result object's bytes.
        rows: its rows as in the result columns.
    """
    return ShardStats.of(
        data,
        rows=len(rows),
        error_codes=Counter(row["error_code"] for row in rows if row["status"] == "error"),
        input_tokens=sum(row["num_input_tokens"] for row in rows),
        generated_tokens=sum(row.get("num_generated_tokens", 0) for row in rows),
        **({} if spec.task == "score" else _quality(spec, rows)),
    )


def _quality(spec: JobSpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What the job's gates count, of the rows that were answered."""
    answers = [row for row in rows if row["status"] == "ok"]
    counts = {
        "cut": sum(row["finish_reason"] == "length" for row in answers),
        "empty": sum(not row["generated_text"].strip() and not row.get("tool_calls") for row in answers),
    }
    if spec.min_valid_json_rate is not None:
        counts["valid_json"] = sum(json_text(row["generated_text"]) is not None for row in answers)
    return counts


def write_parquet(table: pa.Table) -> bytes:
    """Parquet with a checksum on every page: without one a flipped bit is mostly read as good data."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS, write_page_checksum=True)
    return sink.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """Parquet bytes, page checksums verified.

    Raises:
        OSError: damaged.
    """
    return pq.read_table(io.BytesIO(data), page_checksum_verification=True)


def _rows(
    spec: JobSpec, plan: Plan, staged: pa.Table, results: Mapping[int, Output | RowFault], encoder: Encoder
) -> list[dict[str, Any]]:
    """The columns of each row. `attempts` counts the tries of the row itself, not of its shard."""
    rows: list[dict[str, Any]] = []
    texts = staged["choices"].to_pylist() if spec.task == "score" else [()] * len(staged)
    stands_for = repeats(staged, spec)
    for row_id, code, message, num_tokens, sampling, choices in zip(
        staged["row_id"].to_pylist(),
        staged["error_code"].to_pylist(),
        staged["error_message"].to_pylist(),
        num_input_tokens(staged),
        samplings(staged, spec.sampling),
        texts,
        strict=True,
    ):
        result = results.get(stands_for.get(row_id, row_id))
        if code is not None:
            rows.append(_error_row(code, message, num_tokens, attempts=0))
        elif result is None:
            raise ShardMismatch("a valid row came back without a result")
        elif isinstance(result, RowFault):
            rows.append(_error_row(result.code, result.message, num_tokens, attempts=1))
        else:
            answer = (
                scored_row(choices, result.scores)
                if spec.task == "score"
                else generated_row(result, sampling, plan.row_columns, encoder)
            )
            rows.append({"num_input_tokens": num_tokens, "status": "ok", "attempts": 1, **answer})
    return rows


def _error_row(code: str, message: str | None, num_input_tokens: int, *, attempts: int) -> dict[str, Any]:
    return {
        "finish_reason": "error",
        "num_input_tokens": num_input_tokens,
        "num_generated_tokens": 0,
        "status": "error",
        "error_code": str(code),
        "error_message": message,
        "attempts": attempts,
    }
