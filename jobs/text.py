"""Formatting for terminals. Foreign text loses its control characters, so that it cannot control the terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text as one line without control characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """Apply `printable` to each line."""
    return "\n".join(map(printable, text.split("\n")))


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
