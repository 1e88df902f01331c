"""Formatting for people. Foreign text loses its control characters, so that it cannot control the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def printable(text: str) -> str:
    """Return the text as one line without control characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """Apply `printable` to each line."""
    return "\n".join(map(printable, text.split("\n")))


def percent(share: float) -> str:
    """Format a share as a percentage: `1.7 %`. 0 % and 100 % are never the result of rounding."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return "over 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f}".removesuffix(".0") + " %"


def quoted(value: object, most: int = 80) -> str:
    """Quote the value of an option, cut to `most` characters: a prompt may have got there by mistake."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def duration(seconds: float) -> str:
    """Format a duration by its two largest units: `8 s`, `1 min 40 s`, `2 h 5 min`, `3 d 4 h`."""
    rest = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size_s)
        if count or parts or unit == "s":
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean `text`?" for a misspelt name of one of these, or ""."""
    import difflib

    spelt = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), spelt, n=1)
    return f"did you mean `{printable(spelt[near[0]])}`?" if near else ""


def columns_there(wanted: str, names: Collection[str]) -> str:
    """Return a clause, with its full stop, that leads from a missing column to the one that is meant, or lists all."""
    if not names:
        return "there are no columns."
    near = did_you_mean(wanted, names)
    return f"{near} The columns are {', '.join(names)}." if near else f"the columns are {', '.join(names)}."


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Return `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last
