"""The log of a command that goes on for long, such as `serve`: lines on stderr, with the time of each."""

from __future__ import annotations

import logging

from jobs.shell import as_called
from jobs.traces import hide_messages_in_logs


def log_to_stderr(level: int) -> None:
    """Print log records of this level and above; commands that they advise bear the program's name."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    hide_messages_in_logs()
    for noisy in ("botocore", "urllib3", "ray"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = as_called(record.message)
        return super().formatMessage(record)
