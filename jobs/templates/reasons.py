"""Why a template failed on a row, in words: an exception's own message may quote the row, and its type says little."""

from __future__ import annotations

from jinja2.exceptions import SecurityError, UndefinedError

MISSING = "it reads an element or a field that is not there"

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ZeroDivisionError, "it divides by zero"),
    (OverflowError, "a number is too large"),
    (UnicodeError, "a text cannot be encoded or decoded that way"),
    (UndefinedError, MISSING),
    (LookupError, MISSING),
    (AttributeError, MISSING),
    (SecurityError, "it uses something that prompts may not use"),
    (RecursionError, "it is nested too deeply"),
    (ArithmeticError, "a number cannot be computed"),
    (TypeError, "a value is of the wrong kind: text for a number, say, or a null in a list"),
    (ValueError, "a function was given a value that it does not take"),
)


def reason(error: Exception) -> str:
    """Return the reason, without anything from the row."""
    return next((why for kind, why in _REASONS if isinstance(error, kind)), type(error).__name__)
