"""Last output of an engine: the end of what its processes printed, without prompts and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from workers.masking import Masking

TAIL_LINES = 200
"""Printed lines that are searched."""

MAX_LINES, MAX_LINE_CHARS = 12, 240

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e\t]")
_PREFIX = re.compile(r"^(\(\w+ (?:\w+=\S+ ?)+\)\s*)?((?:ERROR|WARNING|INFO) [\d-]+ [\d:,.]+ \[[^\]]*\]\s*)?")
_ERROR = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Interrupt|Exit|Failure|Dead|Warning)\b(?::|$)|^(?:Fatal|CUDA|NCCL)\b"
)
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)')


def last_lines(actor_id: str) -> str:
    """Extract why a Ray actor died from its error output; it and its node may be gone. Blocks for seconds.

    Raises:
        Exception: Ray does not return the output.
    """
    from ray.util.state import get_log

    lines = list(get_log(actor_id=actor_id, suffix="err", tail=TAIL_LINES, timeout=5))
    return telling("".join(lines).splitlines(), os.environ)


def telling(lines: Iterable[str], environment: Mapping[str, str]) -> str:
    """Extract the exceptions and the frames that lead to them, in the order of the lines.

    Other lines are dropped: a dying engine also prints its current requests. Values that look like secrets, or that
    are in environment variables with such names, are masked.
    """
    masking = Masking(environment)
    told: list[str] = []
    for raw in lines:
        line = _PREFIX.sub("", _COLOUR.sub("", raw), count=1).rstrip()
        if frame := _FRAME.match(line):
            line = f"  {frame[1].rsplit('/', 1)[-1]}:{frame[2]}"
            if told and told[-1].startswith("  "):
                told.pop()  # keep only a traceback's last frame, where the error was raised
        elif _ERROR.match(line.strip()):
            line = line.strip()
        else:
            continue
        line = masking.masked(line)[:MAX_LINE_CHARS]
        if not told or told[-1] != line:
            told.append(line)
    return "\n".join(told[-MAX_LINES:])
