"""Columns of results as tables of Delta and Iceberg can hold them.

Both know fewer types than Arrow and Parquet: what they cannot hold becomes a wider type for the same values, else text.
"""

from __future__ import annotations

import pyarrow as pa

from jobs.dataset.types import conform, is_list, plain, united
from jobs.errors import UsageError
from jobs.results.values import as_text, python_values
from jobs.text import quoted
from schemas.exports import JOB_COLUMN

_types = pa.types
_MAX_DECIMAL_DIGITS = 38


def table_schema(schema: pa.Schema) -> pa.Schema:
    """Return the columns of a table for results of this schema: the job's id first, then those of the results."""
    columns = [pa.field(field.name, _table_type(field.type) or pa.string()) for field in schema]
    return pa.schema([pa.field(JOB_COLUMN, pa.string()), *columns])


def has_job_column(table: pa.Schema) -> bool:
    """Return whether a table has a column that can name the job of each row."""
    return JOB_COLUMN in table.names and _table_type(table.field(JOB_COLUMN).type) == pa.string()


def fitted(wanted: pa.Schema, table: pa.Schema, name: str) -> tuple[pa.Schema, list[str]]:
    """Return the columns to write into a table that exists, with its types, and the names of those that it lacks.

    Args:
        wanted: the columns as `table_schema` gives them.
        table: the columns that the table has.
        name: what errors call the table.

    Raises:
        UsageError: a column has a type there that does not hold these values, or the table needs a value of a column
            that results do not have.
    """
    fields, missing = [], []
    alike = {there.casefold(): there for there in table.names}
    for field in wanted:
        if field.name not in table.names and (other := alike.get(field.name.casefold())) is not None:
            raise UsageError(
                f"{name} has a column {quoted(other)}, and the results have {quoted(field.name)}: most readers "
                "of tables take these for one.",
                "Rename the column in the dataset, or export to another table.",
            )
        if field.name not in table.names:
            missing.append(field.name)
            fields.append(field)
            continue
        there = table.field(field.name)
        kind = _table_type(there.type)
        if kind is None or united([field.type, kind]) != kind:
            raise UsageError(
                f"The column {quoted(field.name)} of {name} is {there.type}; the results have {field.type}.",
                "Export to another table, or to files.",
            )
        fields.append(pa.field(field.name, kind, there.nullable))
    for field in table:
        if field.name not in wanted.names and not field.nullable:
            raise UsageError(
                f"{name} needs a value in its column {quoted(field.name)}, which the results do not have.",
                "Carry such a column to the results with --keep, or export to another table.",
            )
    return pa.schema(fields), missing


def table_rows(rows: pa.Table, job_id: str, schema: pa.Schema) -> pa.Table:
    """Convert rows of results to the columns of a table.

    Raises:
        UsageError: a value does not fit into its column.
    """
    columns = []
    for field in schema:
        if field.name == JOB_COLUMN:
            columns.append(pa.repeat(job_id, rows.num_rows).cast(field.type))
            continue
        column = rows[field.name]
        if not field.nullable and column.null_count:
            raise UsageError(
                f"The column {quoted(field.name)} of the table takes no nulls, and results have some.",
                "Export to another table, or only rows that ended well: --export-errors drop.",
            )
        columns.append(_converted(column, field))
    return pa.table(columns, schema=schema)


def _converted(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if _table_type(column.type) is None:
        return pa.array([as_text(value) for value in python_values(column)], field.type)
    try:
        return conform(conform(column, plain(column.type)), field.type)
    except pa.ArrowException:
        raise UsageError(
            f"A value of the column {quoted(field.name)} has digits that {field.type} does not hold.",
            "Export it to Parquet, which keeps every type, or convert the column before the job.",
        ) from None


def _table_type(type_: pa.DataType) -> pa.DataType | None:
    """Return the type that both kinds of table have for the values; None if only text can hold them."""
    type_ = plain(type_)
    if is_list(type_):
        item = _table_type(type_.value_type)
        return None if item is None else pa.list_(item)
    if _types.is_map(type_):
        key, item = _table_type(type_.key_type), _table_type(type_.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if _types.is_struct(type_):
        inside = {field.name: _table_type(field.type) for field in type_}
        if None in inside.values() or len(inside) < max(1, type_.num_fields):
            return None
        return pa.struct([pa.field(name, kind) for name, kind in inside.items()])
    return _scalar_type(type_)


def _scalar_type(type_: pa.DataType) -> pa.DataType | None:
    if _types.is_timestamp(type_):
        return pa.timestamp("us", type_.tz and "UTC")
    if _types.is_decimal(type_):
        fits = type_.precision <= _MAX_DECIMAL_DIGITS and type_.scale >= 0
        return pa.decimal128(type_.precision, type_.scale) if fits else None
    for kind, tests in _KINDS:
        if any(test(type_) for test in tests):
            return kind
    return None


_KINDS = (
    (pa.bool_(), (_types.is_boolean,)),
    (pa.int32(), (_types.is_int8, _types.is_int16, _types.is_int32, _types.is_uint8, _types.is_uint16)),
    (pa.int64(), (_types.is_int64, _types.is_uint32)),
    (pa.decimal128(20, 0), (_types.is_uint64,)),
    (pa.float32(), (_types.is_float16, _types.is_float32)),
    (pa.float64(), (_types.is_float64,)),
    (pa.date32(), (_types.is_date,)),
    (pa.string(), (_types.is_string, _types.is_large_string)),
    (pa.binary(), (_types.is_binary, _types.is_large_binary, _types.is_fixed_size_binary)),
)
