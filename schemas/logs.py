"""Lines that a job's driver and replicas log: how they are kept in the store and how they are printed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["INFO", "WARNING", "ERROR", "CRITICAL"]

LEVELS: tuple[Level, ...] = ("INFO", "WARNING", "ERROR", "CRITICAL")
"""From the least severe to the most."""

DRIVER = "driver"
"""Source of the driver's own lines; those of a replica have its name."""

MAX_MESSAGE_CHARS = 4_000

SEGMENT_BYTES = 256 * 1024
"""A driver's log is kept in objects of about this size; the last one is overwritten as it grows."""

MAX_SEGMENTS = 16
"""Segments kept of one driver. When there is one more, the oldest is deleted."""


class LogLine(BaseModel):
    """One line of a log, as one line of JSON. It holds no prompt and no secret.

    Fields that this version does not know are ignored: logs are for people, and nothing is decided by them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    at: float = Field(description="Seconds since the epoch, by the clock of the process that logged it.")
    level: Level
    source: str = Field(description="`driver`, or the name of a replica.")
    message: str = Field(max_length=MAX_MESSAGE_CHARS)

    def to_json_line(self) -> bytes:
        """Serialise to one line, with its end."""
        return (json.dumps(self.model_dump(), ensure_ascii=False) + "\n").encode(errors="replace")

    @property
    def time(self) -> str:
        """The time in UTC, as in `2026-03-01T02:00:00.123Z`."""
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
