"""Arrow schemas of the two kinds of shard objects: staged rows in, results out."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from schemas.spec import JobSpec

STAGED_FIELDS = [
    pa.field("row_id", pa.int64(), nullable=False),
    pa.field("custom_id", pa.string()),
    pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
    pa.field("sampling", pa.string()),
    pa.field("error_code", pa.string()),
    pa.field("error_message", pa.string()),
]
"""Staged rows; kept columns follow. `sampling` is the row's own values as JSON. `token_ids` is empty on error rows."""

COMPLETION = pa.struct(
    [
        pa.field("index", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("num_tokens", pa.int32()),
        pa.field("cumulative_logprob", pa.float64()),
    ]
)
TOKEN_LOGPROBS = pa.list_(
    pa.struct(
        [
            pa.field("token_id", pa.int32()),
            pa.field("logprob", pa.float64()),
            pa.field("top", pa.list_(pa.struct([pa.field("token_id", pa.int32()), pa.field("logprob", pa.float64())]))),
        ]
    )
)


def staged_schema(kept: Iterable[pa.Field]) -> pa.Schema:
    """Schema of `_job/staged/part-*.parquet` for a job that keeps the given input columns."""
    return pa.schema([*STAGED_FIELDS, *kept])


def result_schema(spec: JobSpec, kept: Iterable[pa.Field]) -> pa.Schema:
    """Schema of `results/part-*.parquet`: the same for every shard of a job, whatever its rows did."""
    fields = [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("custom_id", pa.string()),
        *(field for field in kept if field.name != "custom_id"),
        pa.field("generated_text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("num_input_tokens", pa.int32()),
        pa.field("num_generated_tokens", pa.int32()),
    ]
    if spec.sampling.n > 1:
        fields.append(pa.field("outputs", pa.list_(COMPLETION)))
    if spec.sampling.logprobs is not None:
        fields.append(pa.field("logprobs", TOKEN_LOGPROBS))
    if spec.output_tokens:
        fields.append(pa.field("generated_tokens", pa.list_(pa.int32())))
    fields += [
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
    return pa.schema(fields)
