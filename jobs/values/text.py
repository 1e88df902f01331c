"""The one text of a value, in prompts and in results.

| value | text |
|---|---|
| text | as it is |
| number | as JSON has it (`1.5`, `1e+22`); decimals with all their digits and no exponent |
| truth value | `true`, `false` |
| time, day, duration | ISO 8601: see `jobs.values.moments` |
| binary | in prompts decoded as UTF-8; in results base64 |
| list, struct, map | JSON on one line; a map in results is a list of its pairs |
| UUID | its usual form |
| null, NaN, infinity | none: a prompt that prints one is an error row; in JSON they are null |

Nothing else has a text: Python's form of a function, for example, is not data.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from jobs.values.moments import Moment, duration_text

_BARE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that JSON permits unescaped but no line should hold: line ends to many readers, terminal control codes,
and lone surrogates, which UTF-8 cannot encode."""


class NoText(ValueError):
    """The value has no text. The message names its kind, never its content."""


def text_of(value: Any) -> str:
    """Return the text of a value.

    Raises:
        NoText: it has none.
    """
    if isinstance(value, str):
        return str(value)
    if value is None:
        raise NoText("a value is null")
    if isinstance(value, float) and not math.isfinite(value):
        raise NoText("a number is NaN or infinite")
    if isinstance(value, list | tuple | dict):
        try:
            return json.dumps(_keyed(value), ensure_ascii=False, allow_nan=False, default=_strict)
        except NoText:
            raise
        except ValueError:
            raise NoText("a number is NaN or infinite") from None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return _scalar(value)


def as_json(value: Any) -> str:
    """Return JSON on one line by any reader's line ends, with null or text for values that JSON lacks."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_lenient)
    except (ValueError, TypeError):
        text = json.dumps(_finite(_keyed(value)), ensure_ascii=False, default=_lenient)
    return escaped(text)


def escaped(text: str) -> str:
    """Escape JSON so that it stays on one line and controls no terminal, with the same meaning."""
    # Outside its strings, JSON has none of these characters.
    return _BARE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _scalar(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise NoText("a value is bytes that are not UTF-8") from None
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise NoText("a number is NaN or infinite")
        return format(value, "f")
    if isinstance(value, datetime):
        return str(value) if isinstance(value, Moment) else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, UUID):
        return str(value)
    raise NoText("a function is no value" if callable(value) else f"a {type(value).__name__} is no value")


def _strict(value: Any) -> Any:
    as_null = getattr(value, "is_null", None)
    return None if as_null is True else _scalar(value)


def _lenient(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    try:
        return _strict(value)
    except NoText:
        return None if isinstance(value, Decimal) else str(value)


def _keyed(value: Any) -> Any:
    """Return the value with keys that JSON does not allow replaced by their text."""
    if isinstance(value, list | tuple):
        return [_keyed(item) for item in value]
    if isinstance(value, Mapping):
        return {key if isinstance(key, str | int) else text_of(key): _keyed(item) for key, item in value.items()}
    return value


def _finite(value: Any) -> Any:
    """Return the value with null for numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
