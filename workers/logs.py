"""Logging of the cluster's processes: the form of a line, and lines of our own loggers to be kept in the store."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

from jobs.traces import describe, hide_messages_in_logs
from schemas.logs import LEVELS, MAX_MESSAGE_CHARS, Level, LogLine
from workers.masking import Masking
from workers.messages import LogBatch

OWN_LOGGERS = ("jobs", "workers")
"""Only their lines are kept: what other libraries log may quote rows."""

MAX_RECENT_LINES = 2_000


class LineFormatter(logging.Formatter):
    """Formats each line of a message alike, so that a reader of the output knows who logged it, when and how severe."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines = [f"{at} {record.levelname} {record.name}: {line}" for line in record.getMessage().splitlines() or [""]]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


def set_up() -> None:
    """Log lines of level INFO and above to stderr; where the host program has set up logging, as that does."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    hide_messages_in_logs()
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # else each process tells where its credentials are from


class LineHandler(logging.Handler):
    """Handler that passes on lines of our own loggers, with secrets masked.

    Args:
        source: who logs: `driver`, or the name of a replica.
        keep: called with each line, in any thread.
    """

    def __init__(self, source: str, keep: Callable[[LogLine], None]) -> None:
        super().__init__(logging.INFO)
        self._source, self._keep = source, keep
        self._masking = Masking(os.environ)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one line; never raises."""
        try:
            message = self._masking.masked(_message(record))[:MAX_MESSAGE_CHARS]
            self._keep(LogLine(at=record.created, level=_level(record), source=self._source, message=message))
        except Exception:  # noqa: BLE001 - logging must not disturb the job
            self.handleError(record)

    def attach(self) -> None:
        """Begin to receive lines."""
        for name in OWN_LOGGERS:
            logging.getLogger(name).addHandler(self)

    def detach(self) -> None:
        """Receive no more lines."""
        for name in OWN_LOGGERS:
            logging.getLogger(name).removeHandler(self)


class RecentLines:
    """The latest lines of this process, numbered from 0: whoever collects them asks for those after the last ones."""

    def __init__(self, max_lines: int = MAX_RECENT_LINES) -> None:
        self._lock = threading.Lock()
        self._lines: deque[LogLine] = deque(maxlen=max_lines)
        self._end = 0

    def keep(self, line: LogLine) -> None:
        """Add a line; the oldest goes if there are too many."""
        with self._lock:
            self._lines.append(line)
            self._end += 1

    def since(self, number: int) -> LogBatch:
        """Return the lines from this number on, as far as they are still here."""
        with self._lock:
            first = self._end - len(self._lines)
            lines = list(self._lines)[max(0, number - first) :]
            return LogBatch(lines=tuple(lines), next=self._end, num_missing=max(0, first - number))


@cache
def recent_lines(source: str) -> RecentLines:
    """Return the lines that this process logs from the first call on. A process has one source."""
    recent = RecentLines()
    LineHandler(source, recent.keep).attach()
    return recent


def _message(record: logging.LogRecord) -> str:
    """Return the record's message, and its exception without what could quote a row."""
    error = record.exc_info[1] if record.exc_info else None
    return record.getMessage() if error is None else f"{record.getMessage()} ({describe(error)})"


def _level(record: logging.LogRecord) -> Level:
    return next((level for level in LEVELS if level == record.levelname), "INFO")
