"""Durations as people write them: `90s`, `30m`, `6h`, `1d`."""

from __future__ import annotations

import re

from jobs.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str, option: str) -> float:
    """Parse a duration into seconds; a bare number is seconds.

    Raises:
        UsageError: not a duration.
    """
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?", text.strip())
    if parts is None:
        raise UsageError(f"{option} {text} is not a duration.", "Write 90s, 30m, 6h, 1d or 1h30m.")
    found = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    return sum(float(number) * _UNITS_S[unit or "s"] for number, unit in found)
