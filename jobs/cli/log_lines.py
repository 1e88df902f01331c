"""From a driver's raw output to whole lines that say who speaks. Pure."""

from __future__ import annotations

import re

from jobs.text import printable
from schemas.markers import MARK

_FORWARDED = re.compile(r"\((?:(?P<name>.*?) )?pid=\d+(?:, ip=[^)]*)?\) ?")
"""What Ray puts before a line of another process: `(replica-0 pid=123, ip=10.0.0.7) `."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WIDTH = len("replica-00")


class LogLines:
    """Takes output in pieces of any size and gives back whole lines: `replica-0   | shard 3 ours: 500 rows`."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, piece: str) -> list[str]:
        """The lines that this piece completes."""
        *lines, self._rest = (self._rest + piece).split("\n")
        return [labelled(line) for line in lines if line.strip() and not line.startswith(MARK)]

    def flush(self) -> list[str]:
        """What is left when nothing follows: a last line without an end."""
        return self.feed("\n")


def labelled(line: str) -> str:
    """A line with its speaker before it: a replica's name, `worker` for another process, else `driver`."""
    line = _COLOURS.sub("", line).rstrip()
    forwarded = _FORWARDED.match(line)
    who = (forwarded["name"] or "worker") if forwarded else "driver"
    text = line[forwarded.end() :] if forwarded else line
    return printable(f"{who:<{_WIDTH}} | {text}")
