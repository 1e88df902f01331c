"""From a shard's outputs to the bytes of its result object."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.encoding import Encoder
from jobs.ledger import ShardStats
from jobs.planner import row_ids_digest
from schemas.records import ShardPlan
from schemas.spec import JobSpec
from schemas.tables import STAGED_FIELDS, result_schema
from workers.engines.base import Completion, Output
from workers.feed import RowFault

ROW_GROUP_ROWS = 8192


class ShardMismatch(Exception):
    """The rows at hand are not the rows of the plan: a bug or a damaged object, never committed."""


def encode_results(
    spec: JobSpec,
    shard: ShardPlan,
    staged: pa.Table,
    results: Mapping[int, Output | RowFault],
    encoder: Encoder,
) -> tuple[bytes, ShardStats]:
    """Result Parquet of one shard: one row per staged row, sorted by row id, nothing that varies between runs.

    Raises:
        ShardMismatch: the staged rows are not those of the plan.
    """
    staged = staged.sort_by("row_id")
    row_ids = staged["row_id"].to_numpy()
    if len(row_ids) != shard.num_rows or row_ids_digest(row_ids) != shard.row_ids_sha256:
        raise ShardMismatch(f"shard {shard.index} holds {len(row_ids)} rows that are not those of the plan")

    kept = staged.schema.names[len(STAGED_FIELDS) :]
    schema = result_schema(spec, [staged.schema.field(name) for name in kept])
    rows = [
        _row(spec, results.get(row_id), code, message, num_tokens, encoder)
        for row_id, code, message, num_tokens in zip(
            row_ids.tolist(),
            staged["error_code"].to_pylist(),
            staged["error_message"].to_pylist(),
            pa.compute.list_value_length(staged["token_ids"]).to_pylist(),
            strict=True,
        )
    ]
    columns = [
        staged[field.name].cast(field.type)
        if field.name in ("row_id", "custom_id", *kept)
        else pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    data = write_parquet(pa.table(columns, schema=schema))
    return data, ShardStats.of(
        data,
        rows=len(rows),
        errors=sum(row["status"] == "error" for row in rows),
        input_tokens=sum(row["num_input_tokens"] for row in rows),
        generated_tokens=sum(row["num_generated_tokens"] for row in rows),
    )


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


def _row(
    spec: JobSpec,
    result: Output | RowFault | None,
    staged_code: str | None,
    staged_message: str | None,
    num_input_tokens: int,
    encoder: Encoder,
) -> dict[str, Any]:
    """The generated columns of one row. `attempts` counts the tries of the row itself, not of its shard."""
    if staged_code is not None:
        return _error_row(staged_code, staged_message, num_input_tokens, attempts=0)
    if result is None:
        raise ShardMismatch("a valid row came back without a result")
    if isinstance(result, RowFault):
        return _error_row(result.code, result.message, num_input_tokens, attempts=1)
    first = result.completions[0]
    return {
        "generated_text": _text(first, encoder),
        "finish_reason": first.finish_reason,
        "num_input_tokens": num_input_tokens,
        "num_generated_tokens": sum(len(c.token_ids) for c in result.completions),
        "outputs": [_completion(i, c, encoder) for i, c in enumerate(result.completions)],
        "logprobs": _logprobs(first),
        "generated_tokens": first.token_ids,
        "status": "ok",
        "attempts": 1,
    }


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


def _text(completion: Completion, encoder: Encoder) -> str:
    if completion.text is not None:
        return completion.text
    ids: Sequence[int] = completion.token_ids
    if ids and ids[-1] in encoder.eos_ids:
        ids = ids[:-1]
    return encoder.decode(np.asarray(ids, dtype=np.int64).tolist())


def _completion(index: int, completion: Completion, encoder: Encoder) -> dict[str, Any]:
    return {
        "index": index,
        "text": _text(completion, encoder),
        "finish_reason": completion.finish_reason,
        "num_tokens": len(completion.token_ids),
        "cumulative_logprob": completion.cumulative_logprob,
    }


def _logprobs(completion: Completion) -> list[dict[str, Any]] | None:
    if completion.logprobs is None:
        return None
    return [
        {
            "token_id": token_id,
            "logprob": logprob,
            "top": [{"token_id": other, "logprob": value} for other, value in top],
        }
        for token_id, logprob, top in completion.logprobs
    ]
