"""Encoding of a shard's outputs as the bytes of its result object."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.dataset.types import conform
from jobs.models.encoding import Encoder
from jobs.planning.shards import row_ids_digest
from jobs.rows.sizes import filled, row_bytes, taken
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.commits import ShardStats
from schemas.records import Plan
from schemas.sampling import Sampling
from schemas.spec import TRUNCATED, JobSpec
from schemas.tables import CHOICE_FIELDS, KEPT, kept_fields, result_schema
from workers.engines.base import Output
from workers.shards.result_rows import form_failure, generated_row, json_text, measured_row, scored_row
from workers.shards.staged_rows import num_input_tokens, repeats, samplings

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 8192, 4 * 2**20
"""Limits of one row group, and of what is copied at once when rows are written in another order."""

one_at_a_time = Lock()
"""Lock that lets a process decode or encode one shard at a time: both take memory beyond the shard itself."""

WRITE_BATCH_ROWS = 16
"""Rows after which the Parquet writer checks the size of its page. With more, large cells gather in one page, and each
page is held in memory several times."""


SalvagedRows = Mapping[int, Mapping[str, Any]]
"""Finished rows of earlier attempts, as in the result columns, by row id."""


class ShardMismatch(Exception):
    """The rows at hand are not the rows of the plan: a bug or a damaged object, never committed."""


def encode_results(
    spec: JobSpec,
    plan: Plan,
    shard: int,
    staged: pa.Table,
    results: Mapping[int, Output | RowFailure],
    encoder: Encoder,
    salvaged: SalvagedRows = MappingProxyType({}),
) -> tuple[bytes, ShardStats]:
    """Build a shard's result Parquet: one row per staged row, sorted by row id, nothing that varies between runs.

    Args:
        salvaged: rows that an earlier attempt has finished, taken over unchanged.

    Raises:
        ShardMismatch: the staged rows are not those of the plan.
    """
    with one_at_a_time:
        staged = by_row_id(staged)
        _check_rows(plan, shard, staged)
        return _encoded(spec, plan, staged, _rows(spec, plan, staged, results, encoder, salvaged))


def encode_refused(spec: JobSpec, plan: Plan, shard: int, staged: pa.Table) -> tuple[bytes, ShardStats]:
    """Build the result Parquet of a shard of which staging has refused every row, as `encode_results` would.

    Raises:
        ShardMismatch: the rows are not those of the plan, or one of them is valid.
    """
    staged = by_row_id(staged)
    _check_rows(plan, shard, staged)
    if staged["error_code"].null_count:
        raise ShardMismatch(f"shard {shard} has valid rows")
    codes, messages = (staged[name].to_pylist() for name in ("error_code", "error_message"))
    errors = zip(codes, messages, num_input_tokens(staged, spec), strict=True)
    return _encoded(spec, plan, staged, [_error_row(*error, attempts=0) for error in errors])


def encode_salvage(
    spec: JobSpec,
    plan: Plan,
    staged: pa.Table,
    results: Mapping[int, Output | RowFailure],
    encoder: Encoder,
    salvaged: SalvagedRows,
) -> tuple[bytes, ShardStats]:
    """Build Parquet of a shard's finished rows, in the form of its result: rows that were answered, failed, refused by
    staging, or finished by an earlier attempt.
    """
    stands_for, row_ids = repeats(staged, spec), staged["row_id"].to_pylist()
    finished = [
        error is not None or row_id in salvaged or stands_for.get(row_id, row_id) in results
        for row_id, error in zip(row_ids, staged["error_code"].to_pylist(), strict=True)
    ]
    chosen = by_row_id(staged.filter(pa.array(finished, pa.bool_())))
    return _encoded(spec, plan, chosen, _rows(spec, plan, chosen, results, encoder, salvaged, stands_for))


def salvaged_rows(staged: pa.Table, salvage: pa.Table) -> SalvagedRows:
    """Return the rows of a salvaged object by row id, ready to be reused, without the columns that staged rows carry.

    Args:
        staged: the shard's staged rows; those that staging has refused are left out.

    Raises:
        ShardMismatch: the object has rows that are not the shard's.
    """
    valid = staged.select(["row_id", "error_code"]).filter(pc.is_null(staged["error_code"]))
    if not pc.all(pc.is_in(salvage["row_id"], value_set=staged["row_id"].combine_chunks())).as_py():
        raise ShardMismatch("it has rows of another shard")
    carried = {field.name.removeprefix(KEPT) for field in staged.schema if field.name.startswith(KEPT)} | {
        "custom_id",
        TRUNCATED,
    }
    salvage = salvage.select([name for name in salvage.schema.names if name not in carried])
    wanted = salvage.filter(pc.is_in(salvage["row_id"], value_set=valid["row_id"].combine_chunks()))
    return {row["row_id"]: row for row in wanted.to_pylist()}


def _encoded(
    spec: JobSpec, plan: Plan, staged: pa.Table, rows: Sequence[Mapping[str, Any]]
) -> tuple[bytes, ShardStats]:
    """Encode a shard's rows and compute their statistics; `rows` has the columns of each staged row."""
    table = _table(spec, plan, staged, lambda field: pa.array([row.get(field.name) for row in rows], field.type))
    data = write_parquet(table)
    return data, shard_stats(spec, data, rows, staged)


def result_table(
    spec: JobSpec, plan: Plan, shard: int, staged: pa.Table, column: Callable[[pa.Field], pa.Array]
) -> pa.Table:
    """Build the table of one shard's result object.

    Args:
        staged: its staged rows by row id; `row_id`, `custom_id` and the kept columns come from there.
        column: builds every other column, in the order of those rows.

    Raises:
        ShardMismatch: the staged rows are not those of the plan.
    """
    _check_rows(plan, shard, staged)
    return _table(spec, plan, staged, column)


def _check_rows(plan: Plan, shard: int, staged: pa.Table) -> None:
    """Check that the staged rows, which are in order, are those of the plan."""
    row_ids, planned = staged["row_id"].to_numpy(), plan.shards[shard]
    if len(row_ids) != planned.num_rows or row_ids_digest(row_ids) != planned.row_ids_sha256:
        raise ShardMismatch(f"shard {shard} holds {len(row_ids)} rows that are not those of the plan")


def _table(spec: JobSpec, plan: Plan, staged: pa.Table, column: Callable[[pa.Field], pa.Array]) -> pa.Table:
    kept = kept_fields(staged.schema)
    schema = result_schema(spec, kept, plan.row_columns)
    carried = {"row_id": "row_id", "custom_id": "custom_id"}
    carried |= {TRUNCATED: TRUNCATED} if spec.input.truncated else {}
    carried |= {field.name: f"{KEPT}{field.name}" for field in kept if field.name != "custom_id"}
    return pa.table(
        [
            conform(staged[carried[field.name]], field.type) if field.name in carried else column(field)
            for field in schema
        ],
        schema=schema,
    )


def shard_stats(spec: JobSpec, data: bytes, rows: Sequence[Mapping[str, Any]], staged: pa.Table) -> ShardStats:
    """Compute the statistics of a shard for its commit.

    Args:
        data: the result object's bytes.
        rows: its rows as in the result columns.
        staged: the same rows as they were staged.
    """
    return ShardStats.of(
        data,
        rows=len(rows),
        error_codes=Counter(row["error_code"] for row in rows if row["status"] == "error"),
        input_tokens=sum(row["num_input_tokens"] for row in rows),
        generated_tokens=sum(row.get("num_generated_tokens", 0) for row in rows),
        **({} if spec.scores else _quality(spec, rows, samplings(staged, spec.sampling))),
    )


def _quality(spec: JobSpec, rows: Sequence[Mapping[str, Any]], asked: Sequence[Sampling]) -> dict[str, int]:
    """Count what the job's quality gates and its status look at, among the answered rows.

    Args:
        asked: sampling values of each row.
    """
    answers = [row for row in rows if row["status"] == "ok"]
    counts = {
        "cut": sum(row["finish_reason"] == "length" for row in answers),
        "looped": sum(row["finish_reason"] == "repetition" for row in answers),
        "empty": sum(not row["generated_text"].strip() and not row.get("tool_calls") for row in answers),
    }
    if spec.min_valid_json_rate is not None:
        counts["valid_json"] = sum(
            json_text(row["generated_text"], row["finish_reason"]) is not None for row in answers
        )
    valid = [
        row["status"] == "ok" and json_text(row["generated_text"], row["finish_reason"]) is not None
        for row, sampling in zip(rows, asked, strict=True)
        if sampling.wants_json and (row["status"] == "ok" or row["error_code"] == RowError.INVALID_FORM)
    ]
    return counts | {"json": len(valid), "not_json": valid.count(False)}


def write_parquet(table: pa.Table, order: npt.NDArray[np.int64] | None = None) -> bytes:
    """Encode as Parquet with a checksum on every page: without one, a flipped bit is mostly read as good data.

    Args:
        order: places of the rows in the order to write them; default: as they are.
    """
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True, write_batch_size=WRITE_BATCH_ROWS
    ) as writer:
        for rows in _groups(table, order):
            writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
    pa.default_memory_pool().release_unused()
    return sink.getvalue()


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode Parquet and verify its page checksums. Reads group by group: all at once takes twice the memory.

    Raises:
        OSError: the data is damaged.
    """
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False) as file:
        names = None if columns is None else list(columns)
        groups = [file.read_row_group(index, columns=names) for index in range(file.num_row_groups)]
        return pa.concat_tables(groups) if groups else file.read(columns=names)


def by_row_id(table: pa.Table) -> pa.Table:
    """Sort the rows by row id; return the table itself if they are sorted already."""
    row_ids = table["row_id"].to_numpy()
    in_order = bool((np.diff(row_ids) > 0).all())
    return table if in_order else pa.concat_tables(_groups(table, np.argsort(row_ids)))


def _groups(table: pa.Table, order: npt.NDArray[np.int64] | None = None) -> Iterator[pa.Table]:
    """Yield the rows, in the given order, in parts of the size of a row group."""
    sizes = row_bytes(table)
    sizes = sizes if order is None else sizes[order]
    for start, stop in filled(sizes, max_rows=ROW_GROUP_ROWS, max_bytes=ROW_GROUP_BYTES):
        yield table.slice(start, stop - start) if order is None else taken(table, order[start:stop])


def _rows(
    spec: JobSpec,
    plan: Plan,
    staged: pa.Table,
    results: Mapping[int, Output | RowFailure],
    encoder: Encoder,
    salvaged: SalvagedRows,
    stands_for: Mapping[int, int] | None = None,
) -> list[Mapping[str, Any]]:
    """Build the result columns of each row. `attempts` counts the tries of the row itself, not of its shard.

    Args:
        stands_for: the shard's `repeats`; needed if `staged` is not the whole shard.
    """
    rows: list[Mapping[str, Any]] = []
    nothing: list[None] = [None] * len(staged)
    texts, scored = (staged[f.name].to_pylist() for f in CHOICE_FIELDS) if spec.scores else (nothing, nothing)
    stands_for = repeats(staged, spec) if stands_for is None else stands_for
    for row_id, code, message, num_tokens, sampling, choices, token_ids in zip(
        staged["row_id"].to_pylist(),
        staged["error_code"].to_pylist(),
        staged["error_message"].to_pylist(),
        num_input_tokens(staged, spec),
        samplings(staged, spec.sampling),
        texts,
        scored,
        strict=True,
    ):
        result = results.get(stands_for.get(row_id, row_id))
        if code is not None:
            rows.append(_error_row(code, message, num_tokens, attempts=0))
        elif row_id in salvaged:
            rows.append(salvaged[row_id])
        elif result is None:
            raise ShardMismatch("a valid row came back without a result")
        elif isinstance(result, RowFailure):
            rows.append(_error_row(result.code, result.message, num_tokens, attempts=result.attempts))
        else:
            if spec.task == "score":
                answer = scored_row(choices, result.scores, token_ids)
            elif spec.task == "perplexity":
                answer = measured_row(result.scores, token_ids, with_tokens=spec.token_logprobs)
            else:
                answer = generated_row(result, sampling, plan.row_columns, encoder)
            if spec.task == "generate" and (why := form_failure(answer, result, sampling)):
                rows.append(_error_row(RowError.INVALID_FORM, why, num_tokens, attempts=result.attempts))
            else:
                rows.append({"num_input_tokens": num_tokens, "status": "ok", "attempts": result.attempts, **answer})
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
