"""Columns in the names of folders, as Hive, Spark and pandas write them: `lang=de/date=2026-03-01/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"-?[1-9][0-9]{0,18}|0")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def values_of(uri: str, base: str) -> tuple[tuple[str, str | None], ...]:
    """Return the columns in a file's folders, in order, with their values as text; null is None.

    Folders count from `base` on, and those directly above it that are named so, too: `s3://b/t/date=2026-03-01/` has
    the column `date`. Names and values are URL-decoded, once. Of two folders with one name the inner one counts.
    """
    below = uri.removeprefix(base.rstrip("/") + "/").split("/")[:-1]
    above: list[str] = []
    for part in reversed(base.rstrip("/").split("/")):
        if _pair(part) is None:
            break
        above.insert(0, part)
    return tuple(dict(pair for part in [*above, *below] if (pair := _pair(part)) is not None).items())


def type_of(values: Iterable[str | None]) -> pa.DataType:
    """Return the type of a folder column: int64 or date32 if every value is written as one writes these, else text.

    Numbers with leading zeros are text: `01` is not 1.
    """
    texts = [value for value in values if value is not None]
    if texts and all(_WHOLE.fullmatch(text) and -(2**63) <= int(text) < 2**63 for text in texts):
        return pa.int64()
    return pa.date32() if texts and all(map(_is_date, texts)) else pa.string()


def value_of(text: str | None, type_: pa.DataType) -> pa.Scalar:
    """Return a folder's text as a value of the column's type.

    Raises:
        pa.ArrowException: it is none.
    """
    if text is None:
        return pa.scalar(None, type_)
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return pa.scalar(text.encode(), type_)
    return pa.scalar(text).cast(type_)


def _pair(part: str) -> tuple[str, str | None] | None:
    name, separator, value = part.partition("=")
    if not separator or not name:
        return None
    try:
        key, text = unquote(name, errors="strict"), unquote(value, errors="strict")
    except UnicodeDecodeError:
        return None
    return key, None if text == _NULL else text


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
