"""Arrow schemas of the two kinds of shard objects: staged rows in, results out."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pyarrow as pa

from schemas.records import RowColumn
from schemas.spec import TRUNCATED, JobSpec

STAGED_FIELDS = [
    pa.field("row_id", pa.int64(), nullable=False),
    pa.field("custom_id", pa.string()),
    pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
    pa.field("sampling", pa.string()),
    pa.field("error_code", pa.string()),
    pa.field("error_message", pa.string()),
]
"""Staged rows; kept columns follow, under `KEPT` and their name. `sampling` is the row's own values as JSON.
`token_ids` is empty on error rows."""

FINGERPRINT = pa.field("fingerprint", pa.binary(16))
"""Last of the staged columns before the kept ones; null on error rows. See `jobs.rows.fingerprints`."""

OPEN_FINGERPRINT = pa.field("open_fingerprint", pa.binary(16))
"""Of rows that are answered greedily: as the fingerprint, but without what can only end an answer earlier."""

DETECTION = pa.field("detection", pa.string())
"""The row's repetition detection, in its text form; null: none, or the row is not answered greedily."""

FINGERPRINT_FIELDS = [pa.field("row_id", pa.int64(), nullable=False), FINGERPRINT, OPEN_FINGERPRINT, DETECTION]
"""`_job/fingerprints/part-*.parquet`, by row id; they stay when staged rows are deleted. Older versions wrote the first
two columns only."""

KEPT = "kept."
"""Prefix of kept columns in staged rows, where they must not meet ours."""

KEPT_TYPES = b"nightbatch.kept"
"""Metadata of staged rows: the kept columns as results have them, as an Arrow schema. Staged rows hold them in plain
types, and where this is missing (staged by an older version) in those of the results."""

CHOICE_FIELDS = [
    pa.field("choices", pa.list_(pa.string())),
    pa.field("choice_token_ids", pa.list_(pa.list_(pa.int32()))),
]
"""Further staged columns of jobs that score; `token_ids` is the context that all of a row's choices continue.

For a perplexity, `token_ids` is the one token before the text, `choices` is empty, and `choice_token_ids` are the parts
of the text that are scored at a time: see `jobs.rows.windows`."""

JSON_TEXT = {b"json": b"1"}
"""Metadata of a column whose text is JSON in every row. Where a format is JSON, it is written as what it says."""

TRUNCATED_FIELD = pa.field(TRUNCATED, pa.bool_())
"""In staged rows and in results of jobs that cut long rows: whether this row was cut."""

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


TOOL_CALLS = pa.list_(
    pa.struct([pa.field("name", pa.string()), pa.field("arguments", pa.string()), pa.field("error", pa.string())])
)
"""`arguments` is JSON text, as in OpenAI's API. `error` says why a call cannot be used, else null; the call's
text is then in `arguments` as the model wrote it. A row without calls has null."""

SCORED_FIELDS = [
    pa.field("text", pa.string()),
    pa.field("num_tokens", pa.int32()),
    pa.field("sum_logprob", pa.float64()),
    pa.field("mean_logprob", pa.float64()),
]
"""Fields of one choice in the results; natural logarithms, the mean is per token."""

TOKEN_FIELDS = [pa.field("token_ids", pa.list_(pa.int32())), pa.field("token_logprobs", pa.list_(pa.float64()))]
"""Scored tokens and the log-likelihood of each, where a job asks for them."""


def staged_fields(spec: JobSpec) -> list[pa.Field]:
    """The columns of staged rows that come before the kept ones."""
    cut = [TRUNCATED_FIELD] if spec.input.truncated else []
    return [*STAGED_FIELDS, *(CHOICE_FIELDS if spec.scores else ()), *cut, FINGERPRINT]


def staged_schema(spec: JobSpec, kept: Iterable[pa.Field]) -> pa.Schema:
    """Schema of `_job/staged/part-*.parquet` for a job that keeps the given input columns."""
    return pa.schema([*staged_fields(spec), *(field.with_name(KEPT + field.name) for field in kept)])


def with_kept_types(staged: pa.Table, kept: Iterable[pa.Field]) -> pa.Table:
    """Staged rows that say which types the kept columns have in the results."""
    said = {KEPT_TYPES: pa.schema(list(kept)).serialize().to_pybytes()}
    return staged.replace_schema_metadata((staged.schema.metadata or {}) | said)


def kept_fields(staged: pa.Schema) -> list[pa.Field]:
    """The kept columns of staged rows as results have them."""
    said = (staged.metadata or {}).get(KEPT_TYPES)
    known = pa.schema([]) if said is None else pa.ipc.read_schema(pa.py_buffer(said))
    fields = [field.with_name(field.name.removeprefix(KEPT)) for field in staged if field.name.startswith(KEPT)]
    return [known.field(field.name) if field.name in known.names else field for field in fields]


def result_schema(spec: JobSpec, kept: Iterable[pa.Field], row_columns: Collection[RowColumn] = ()) -> pa.Schema:
    """Schema of `results/part-*.parquet`: the same for every shard of a job, whatever its rows did.

    Args:
        row_columns: the plan's columns of that name.
    """
    fields = [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("custom_id", pa.string()),
        *(field for field in kept if field.name != "custom_id"),
        *_FIELDS[spec.task](spec, row_columns),
        *([TRUNCATED_FIELD] if spec.input.truncated else ()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
    return pa.schema(fields)


def _scored(spec: JobSpec, row_columns: Collection[RowColumn]) -> list[pa.Field]:
    """`choices` has one entry per choice, in the row's order. `best_choice` is the index with the highest sum,
    `best_choice_mean` that with the highest mean."""
    greedy = [pa.field("is_greedy", pa.bool_())] if "is_greedy" in row_columns else []
    scores = [*SCORED_FIELDS, *greedy, *(TOKEN_FIELDS if spec.token_logprobs else ())]
    return [
        pa.field("choices", pa.list_(pa.struct(scores))),
        pa.field("best_choice", pa.int32()),
        pa.field("best_choice_mean", pa.int32()),
        pa.field("num_input_tokens", pa.int32()),
    ]


def _measured(spec: JobSpec, row_columns: Collection[RowColumn]) -> list[pa.Field]:
    """`perplexity` is e to the power of the negative mean."""
    return [
        pa.field("sum_logprob", pa.float64()),
        pa.field("mean_logprob", pa.float64()),
        pa.field("perplexity", pa.float64()),
        pa.field("num_scored_tokens", pa.int32()),
        *(TOKEN_FIELDS if spec.token_logprobs else ()),
        pa.field("num_input_tokens", pa.int32()),
    ]


def _generated(spec: JobSpec, row_columns: Collection[RowColumn]) -> list[pa.Field]:
    fields = [
        pa.field("generated_text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("num_input_tokens", pa.int32()),
        pa.field("num_generated_tokens", pa.int32()),
    ]
    if spec.has_outputs:
        fields.append(pa.field("outputs", pa.list_(COMPLETION)))
    if spec.has_logprobs:
        fields.append(pa.field("logprobs", TOKEN_LOGPROBS))
    if spec.output_tokens:
        fields.append(pa.field("generated_tokens", pa.list_(pa.int32())))
    if "tool_calls" in row_columns:
        fields.append(pa.field("tool_calls", TOOL_CALLS))
    if "parsed" in row_columns:
        fields.append(pa.field("parsed", pa.string(), metadata=JSON_TEXT))
    return fields


_FIELDS = {"generate": _generated, "score": _scored, "perplexity": _measured}
