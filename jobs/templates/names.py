"""Jinja's filters and tests by what they do with a value."""

from __future__ import annotations

ABSENT = frozenset({"pprint", "random", "urlize", "xmlattr"})
"""Jinja's filters that prompts do not have."""

FREE = frozenset({"attr", "count", "d", "default", "first", "last", "length", "truncate"})
"""Filters whose work does not grow with the value."""

OF_TEXT = frozenset(
    {
        "capitalize",
        "center",
        "format",
        "indent",
        "lower",
        "replace",
        "title",
        "trim",
        "truncate",
        "upper",
        "wordcount",
        "wordwrap",
    }
)
"""Filters of text: other values are converted to their text first."""

OF_NULL = frozenset({"d", "default", "list", "tojson"})
"""Filters that accept a null."""

OF_ELEMENTS = frozenset({"dictsort", "groupby", "max", "min", "sort", "sum", "unique"})
"""Filters that read every element."""

COMPARING = frozenset(
    {"==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge", "in"}
)
"""Tests that read both values completely."""
