"""From a driver's raw output to whole lines that say who speaks. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from jobs.text import printable
from schemas.logs import DRIVER, LEVELS, Level, LogLine
from schemas.markers import MARK

_FORWARDED = re.compile(r"\((?:(?P<name>.*?) )?pid=\d+(?:, ip=[^)]*)?\) ?")
"""What Ray puts before a line of another process: `(replica-0 pid=123, ip=10.0.0.7) `."""

_OWN = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3}Z?) "
    r"(?P<level>[A-Z]+) (?:jobs|workers)(?:\.[\w.]+)?: (?P<message>.*)"
)
"""A line of our own loggers, as `workers.logs` formats it, or as drivers of version 0.1 do."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WIDTH = len("replica-00")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a job's log.

    Attributes:
        source: a replica's name, `worker` for another process of the cluster, else `driver`.
        time, level: as logged; empty for a line that another library has printed.
    """

    source: str
    text: str
    time: str = ""
    level: Level | Literal[""] = ""

    @property
    def is_own(self) -> bool:
        """Whether one of our own loggers wrote it."""
        return bool(self.level)

    def matches(self, level: str | None, source: str | None) -> bool:
        """Return whether the line is of this level or a more severe one, and of this source.

        Args:
            level: None for any; a line that another library has printed has no level, and matches none.
            source: None for any. `replica-3` stands for all replicas that have had this name in turn.
        """
        if level is not None and (not self.is_own or LEVELS.index(self.level) < LEVELS.index(level)):
            return False
        return source is None or self.source == source or self.source.startswith(f"{source}.")

    def __str__(self) -> str:
        """Format for people: the speaker, the time, the level unless it is INFO, the text."""
        told = "" if self.level in ("", "INFO") else f"{self.level}: "
        text = f"{self.time} {told}{self.text}" if self.is_own else self.text
        return printable(f"{self.source:<{_WIDTH}} | {text}")


class RawLines:
    """Takes a driver's output in pieces of any size and gives back whole lines."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, piece: str) -> list[Line]:
        """Return the lines that this piece completes."""
        *lines, self._rest = (self._rest + piece).split("\n")
        return [parsed(line) for line in lines if line.strip() and not line.startswith(MARK)]

    def flush(self) -> list[Line]:
        """Return what is left when nothing follows: a last line without an end."""
        return self.feed("\n")


def parsed(raw: str) -> Line:
    """Parse one line of a driver's output."""
    raw = _COLOURS.sub("", raw).rstrip()
    forwarded = _FORWARDED.match(raw)
    source = (forwarded["name"] or "worker") if forwarded else DRIVER
    text = raw[forwarded.end() :] if forwarded else raw
    own = _OWN.fullmatch(text)
    level = next((level for level in LEVELS if own and own["level"] == level), None)
    if own is None or level is None:
        return Line(source=source, text=text)
    return Line(source=source, text=own["message"], time=_seconds(own["time"]), level=level)


def stored(line: LogLine) -> list[Line]:
    """Return the lines of one that was kept in the store: one for each line of its message."""
    texts = line.message.splitlines() or [""]
    return [Line(source=line.source, text=text, time=_seconds(line.time), level=line.level) for text in texts]


def _seconds(time: str) -> str:
    """Shorten a time to `2026-03-01 02:00:00Z`."""
    return f"{time[:10]} {time[11:19]}{'Z' if time.endswith('Z') else ''}"
