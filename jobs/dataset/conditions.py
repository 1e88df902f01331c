"""Conditions on rows, as users write them: `status=error`, `n>1000`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.dataset.types import as_text, conform, plain
from jobs.errors import UsageError
from jobs.text import did_you_mean, quoted

_CONDITION = re.compile(r"\s*(?P<column>[^=!<>]*?)\s*(?P<operator>==|!=|<=|>=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_HOW = "Write COLUMN=VALUE, or with !=, <, <=, > or >= for =; for example lang=de"

_ORDERED = frozenset({"<", "<=", ">", ">="})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition in the types of a table.

    Attributes:
        value: the value to compare with; None tests whether the row has no value.
    """

    column: str
    operator: str
    value: pa.Scalar | None

    def holds(self, table: pa.Table) -> pa.ChunkedArray:
        """Return the mask of rows that meet the condition, without nulls. A row without a value differs from every
        value, and is neither smaller nor greater.
        """
        column = table[self.column]
        if self.value is None:
            empty = pc.is_null(column)
            if _is_text(as_text(column.type)):
                empty = pc.or_(empty, pc.fill_null(pc.equal(conform(column, pa.string()), ""), True))
            return empty if self.operator == "=" else pc.invert(empty)
        as_numbers = _is_text(as_text(column.type)) and pa.types.is_float64(self.value.type)
        values = self._numbers(column) if as_numbers else conform(column, self.value.type)
        found = _COMPARE[self.operator](values, self.value)
        return pc.fill_null(found, self.operator == "!=")

    def _numbers(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the numbers that a column of text holds, as one of CSV does."""
        texts = pc.utf8_trim_whitespace(conform(column, pa.string()))
        texts = pc.if_else(pc.fill_null(pc.equal(texts, ""), True), pa.scalar(None, pa.string()), texts)
        try:
            return pc.cast(texts, pa.float64())
        except pa.ArrowInvalid as error:
            raise UsageError(
                f"Column {self.column} holds text that is no number: {self.operator} with a number means nothing.",
                "Use = or !=, or write its values as numbers with a decimal point.",
            ) from error

    def excludes(self, least: Any, most: Any) -> bool:
        """Return whether no value from `least` to `most`, and no null, can meet the condition."""
        value = None if self.value is None else self.value.as_py()
        if value is None:
            return False
        try:
            match self.operator:
                case "=":
                    return bool(value < least or value > most)
                case "<":
                    return bool(least >= value)
                case "<=":
                    return bool(least > value)
                case ">":
                    return bool(most <= value)
                case ">=":
                    return bool(most < value)
        except TypeError:
            pass
        return False


def parse_conditions(texts: Iterable[str], schema: pa.Schema, whose: str = "The results have") -> list[Condition]:
    """Parse conditions on tables of a schema. `COLUMN=` asks for rows without a value, `COLUMN!=` for rows with one.

    Args:
        whose: subject and verb of the sentence that says that there is no such column.

    Raises:
        UsageError: a text is not a condition, names an unknown column, or has a value that is invalid for its type.
    """
    return [_parse(text, schema, whose) for text in texts]


def conditioned_columns(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that these conditions name; texts that are no conditions name none."""
    found = (match["column"] for text in texts if (match := _CONDITION.fullmatch(text)) is not None)
    return tuple(dict.fromkeys(filter(None, found)))


def select(table: pa.Table, conditions: Iterable[Condition]) -> pa.Table:
    """Return the rows that meet every condition, with columns in their plain types."""
    masks = [condition.holds(table) for condition in conditions]
    fields = [field.with_type(plain(field.type)) for field in table.schema]
    table = pa.table([conform(table[field.name], field.type) for field in fields], schema=pa.schema(fields))
    return table.filter(reduce(pc.and_, masks)) if masks else table


def known_column(schema: pa.Schema, name: str, whose: str = "The results have") -> pa.Field:
    """Return the column of that name.

    Raises:
        UsageError: there is no such column; the hint lists the columns.
    """
    if name not in schema.names:
        near = did_you_mean(name, schema.names)
        raise UsageError(
            f"{whose} no column {quoted(name)}{f'; {near}' if near else '.'}",
            f"Columns are: {', '.join(schema.names)}.",
        )
    return schema.field(name)


def _parse(text: str, schema: pa.Schema, whose: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None or not match["column"]:
        raise UsageError(f"{quoted(text)} is not a condition.", _HOW)
    name, operator, value = match["column"], match["operator"].replace("==", "="), match["value"]
    kind = as_text(known_column(schema, name, whose).type)
    if not value:
        if operator not in ("=", "!="):
            raise UsageError(f"{quoted(text)} compares with nothing.", _HOW)
        return Condition(name, operator, None)
    if pa.types.is_nested(kind):
        raise UsageError(
            f"Column {name} holds {kind}, which cannot be compared with a text.", "Use another column, or filter later."
        )
    if operator in _ORDERED and _is_text(kind) and _NUMBER.fullmatch(value):
        # By its characters, 10 would come before 7.
        return Condition(name, operator, pa.scalar(float(value), pa.float64()))
    try:
        scalar = pa.scalar(value).cast(kind)
        _COMPARE[operator](pa.nulls(0, kind), scalar)
    except pa.ArrowNotImplementedError as error:
        raise UsageError(f"Column {name} holds {kind}, which has no order.", "Use = or !=.") from error
    except pa.ArrowException as error:
        raise UsageError(
            f"{quoted(value)} is not a value of column {name} ({kind}).", "Correct the condition."
        ) from error
    return Condition(name, operator, scalar)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
