"""Durations as people write them: `90s`, `30m`, `6h`, `1d`."""

from __future__ import annotations

import re

from jobs.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NUMBER = r"\d+(?:\.\d+)?"


def seconds(text: str, option: str) -> float:
    """Parse a duration into seconds.

    Raises:
        UsageError: not a duration, or one without a unit.
    """
    text = text.strip()
    if re.fullmatch(_NUMBER, text):
        raise UsageError(f"{option} {text} has no unit.", f"Write {text}h, {text}m or {text}s.")
    if not re.fullmatch(rf"(?:{_NUMBER}[smhd])+", text):
        raise UsageError(f"{option} {text} is not a duration.", "Write 90s, 30m, 6h, 1d or 1h30m.")
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(rf"({_NUMBER})([smhd])", text))
