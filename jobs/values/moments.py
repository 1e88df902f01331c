"""Times and durations as ISO 8601 text without loss: any year, nanoseconds, time zones unknown to this machine.

`2026-03-01T12:00:00+01:00` as Python writes it, with nine digits of a second where six are too few. Years outside
0000 to 9999 carry their sign (`+10000-01-01`). An instant in an unknown zone, or outside Python's years, is given in
UTC. Durations are `P1DT2H3.5S`, with any minus before the `P`; calendar intervals have a sign on each part.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - Arrow's times without a zone have none
_CYCLE_DAYS, _CYCLE_YEARS = 146_097, 400
"""Period of the Gregorian calendar: it repeats after this many days and years."""

_DAY_NS = 86_400 * 10**9
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


class Moment(datetime):
    """A point in time that may be more precise than Python's datetime. Its `str` has the full precision."""

    _nanoseconds: int

    @classmethod
    def of(cls, at: datetime, nanoseconds: int) -> Self:
        """Build the moment this many nanoseconds after a whole second."""
        moment = cls.combine(at.date(), at.time().replace(microsecond=nanoseconds // 1000), at.tzinfo)
        moment._nanoseconds = nanoseconds
        return moment

    def __str__(self) -> str:
        nanoseconds = getattr(self, "_nanoseconds", 0)
        if nanoseconds % 1000 == 0:
            return self.isoformat()
        whole = self.isoformat(timespec="microseconds")
        # Digits of the second end at the 26th character: the years of a datetime have four.
        return f"{whole[:26]}{nanoseconds % 1000:03}{whole[26:]}"


def moment(value: int, unit: str, zone: str | None) -> Moment | str:
    """Return the time this many units after the start of 1970; text where Python has no such year."""
    seconds, nanoseconds = _split(value, unit)
    try:
        at = _EPOCH + timedelta(seconds=seconds)
        if zone:
            at = at.replace(tzinfo=UTC).astimezone(_zone(zone))
    except OverflowError:
        days, second = divmod(seconds, 86_400)
        clock = _clock_text(second, nanoseconds)
        return f"{_far_day(days)}T{clock}{'+00:00' if zone else ''}"
    return Moment.of(at, nanoseconds)


def day(days: int) -> date | str:
    """Return the day this many days after 1970-01-01; text where Python has no such year."""
    try:
        return (_EPOCH + timedelta(days=days)).date()
    except OverflowError:
        return _far_day(days)


def clock(value: int, unit: str) -> time | str:
    """Return the time of day; text where it has nanoseconds.

    Raises:
        ValueError: not a time of day.
    """
    seconds, nanoseconds = _split(value, unit)
    if not 0 <= seconds < 86_400:
        raise ValueError("not a time of a day")
    if nanoseconds % 1000:
        return _clock_text(seconds, nanoseconds)
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, nanoseconds // 1000)


def span(value: int, unit: str) -> timedelta | str:
    """Return the duration; text where Python cannot represent it."""
    nanoseconds = value * (10**9 // _PER_SECOND[unit])
    if nanoseconds % 1000 == 0:
        try:
            return timedelta(microseconds=nanoseconds // 1000)
        except OverflowError:
            pass
    return _span_text(nanoseconds)


def duration_text(duration: timedelta) -> str:
    """Return the text of a Python duration."""
    return _span_text((duration // timedelta(microseconds=1)) * 1000)


def interval_text(months: int, days: int, nanoseconds: int) -> str:
    """Return the text of a calendar interval, whose months and days have no fixed length."""
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    text = f"{f'{months}M' if months else ''}{f'{days}D' if days else ''}"
    text += f"T{sign}{seconds}{_fraction(rest, trimmed=True)}S" if nanoseconds else ""
    return f"P{text}" if text else "PT0S"


def _split(value: int, unit: str) -> tuple[int, int]:
    seconds, rest = divmod(value, _PER_SECOND[unit])
    return seconds, rest * (10**9 // _PER_SECOND[unit])


def _far_day(days: int) -> str:
    cycles, within = divmod(days, _CYCLE_DAYS)
    near = _EPOCH + timedelta(days=within)
    year = near.year + cycles * _CYCLE_YEARS
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}-{near.month:02}-{near.day:02}"


def _clock_text(second: int, nanoseconds: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{_fraction(nanoseconds)}"


def _span_text(nanoseconds: int) -> str:
    sign, size = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    days, rest = divmod(size, _DAY_NS)
    seconds, rest = divmod(rest, 10**9)
    parts = [(seconds // 3600, "H"), (seconds // 60 % 60, "M")]
    clock = "".join(f"{count}{letter}" for count, letter in parts if count)
    if seconds % 60 or rest or not (days or clock):
        clock += f"{seconds % 60}{_fraction(rest, trimmed=True)}S"
    return f"{sign}P{f'{days}D' if days else ''}{f'T{clock}' if clock else ''}"


def _fraction(nanoseconds: int, *, trimmed: bool = False) -> str:
    if not nanoseconds:
        return ""
    if trimmed:
        return f".{nanoseconds:09}".rstrip("0")
    return f".{nanoseconds:09}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06}"


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    if match := _OFFSET.fullmatch(name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        try:
            return timezone(-offset if match[1] == "-" else offset)
        except ValueError:
            return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC
