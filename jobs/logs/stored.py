"""Logs kept in the store: for each driver, its lines and those of its replicas, the latest few megabytes of them."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from pydantic import ValidationError

from jobs.ledger import Ledger
from schemas import keys
from schemas.logs import DRIVER, MAX_SEGMENTS, SEGMENT_BYTES, LogLine

_KEPT_MIB = MAX_SEGMENTS * SEGMENT_BYTES // 2**20


class StoredLogs:
    """Reads a job's stored logs; segments that have not changed are read once. Methods may raise `StoreError`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._segments: dict[str, tuple[tuple[datetime, int], list[LogLine]]] = {}

    def read(self) -> dict[str, list[LogLine]]:
        """Return the lines of each driver, oldest driver first. A gap is a line that says so."""
        segments: defaultdict[str, dict[int, list[LogLine]]] = defaultdict(dict)
        for info in self._ledger.store.list(self._ledger.key(keys.LOGS)):
            if (named := keys.log_of(info.key)) is None:
                continue
            version = (info.modified_at, info.size_bytes)
            if info.key not in self._segments or self._segments[info.key][0] != version:
                self._segments[info.key] = version, _lines(self._ledger.store.get(info.key) or b"")
            driver, number = named
            segments[driver][number] = self._segments[info.key][1]
        logs = {driver: _joined(found) for driver, found in segments.items()}
        return dict(sorted(((driver, lines) for driver, lines in logs.items() if lines), key=lambda log: log[1][0].at))


def _lines(data: bytes) -> list[LogLine]:
    """Parse a segment, without lines that this version cannot read."""
    found = []
    for line in data.splitlines():
        try:
            found.append(LogLine.model_validate_json(line))
        except ValidationError:
            continue
    return found


def _joined(segments: dict[int, list[LogLine]]) -> list[LogLine]:
    """Join one driver's segments in order."""
    joined: list[LogLine] = []
    expected = 0
    for number, lines in sorted(segments.items()):
        if number != expected and lines:
            told = f"Lines are missing here: the last {_KEPT_MIB} MiB of a driver's log are kept."
            joined.append(LogLine(at=lines[0].at, level="INFO", source=DRIVER, message=told))
        joined += lines
        expected = number + 1
    return joined
