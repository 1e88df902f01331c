"""The job's log in the store: lines of the driver and its replicas, written at intervals and when the driver ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from jobs.store.base import ObjectStore
from schemas import keys
from schemas.logs import DRIVER, MAX_SEGMENTS, SEGMENT_BYTES, LogLine
from workers.logs import LineHandler

WRITE_EVERY_S = 10.0
"""Seconds between writes; there is none if nothing was logged."""

LAST_WRITE_S = 5.0
"""Limit on the last write, for which the end of a driver waits."""


class _Segment:
    """Part of the log that is an object of its own in the store."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.data = bytearray()
        self.num_stored = 0

    @property
    def is_stored(self) -> bool:
        return self.num_stored == len(self.data)


class JobLog:
    """Keeps what one driver and its replicas log in the job directory. It never raises and never holds up the job.

    A thread writes: at most one segment at a time grows, so a write is small. While the store cannot be written, as
    many lines wait as the store would keep. A driver on another cluster may have had the same id: its segments stay.

    Args:
        store: store for the log alone; its patience should be short.
        job_id: job whose directory the log belongs to.
        driver_id: Ray's submission id.
    """

    def __init__(self, store: ObjectStore, job_id: str, driver_id: str) -> None:
        self._store, self._job_id, self._driver_id = store, job_id, driver_id
        self._segments = deque([_Segment(0)], maxlen=MAX_SEGMENTS)
        self._first: int | None = None
        self._lock, self._over = threading.Lock(), threading.Event()
        self._handler = LineHandler(DRIVER, lambda line: self.add((line,)))
        self._writer = threading.Thread(target=self._write_until_over, name="job-log", daemon=True)

    def __enter__(self) -> JobLog:
        self._handler.attach()
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left. A store that does not answer within `LAST_WRITE_S` is not waited for."""
        self._handler.detach()
        self._over.set()
        self._writer.join(LAST_WRITE_S)

    def add(self, lines: Iterable[LogLine]) -> None:
        """Add lines to be written next."""
        with self._lock:
            for line in lines:
                data = line.to_json_line()
                if self._segments[-1].data and len(self._segments[-1].data) + len(data) > SEGMENT_BYTES:
                    self._segments.append(_Segment(self._segments[-1].number + 1))
                self._segments[-1].data += data

    def write(self) -> None:
        """Write the segments that have new lines, oldest first, and delete those that are too old.

        Raises:
            StoreError: the store cannot be written; the lines are kept for the next time.
        """
        while (found := self._next_to_write()) is not None:
            if self._first is None:
                self._first = self._end_of_earlier()
            segment, data = found
            number = self._first + segment.number
            self._store.put(self._key(number), data)
            if not segment.num_stored and number >= MAX_SEGMENTS:
                self._store.delete(self._key(number - MAX_SEGMENTS))
            segment.num_stored = len(data)

    def _end_of_earlier(self) -> int:
        """Return the number of the first segment that no earlier driver has written."""
        found = (keys.log_of(info.key) for info in self._store.list(f"{self._job_id}/{keys.LOGS}{self._driver_id}/"))
        return max((segment + 1 for driver, segment in filter(None, found) if driver == self._driver_id), default=0)

    def _next_to_write(self) -> tuple[_Segment, bytes] | None:
        with self._lock:
            while len(self._segments) > 1 and self._segments[0].is_stored:
                self._segments.popleft()
            segment = next((each for each in self._segments if not each.is_stored), None)
            return None if segment is None else (segment, bytes(segment.data))

    def _write_until_over(self) -> None:
        while True:
            is_over = self._over.wait(WRITE_EVERY_S)
            with suppress(Exception):  # not logged: that would be one more line to write, at every try
                self.write()
            if is_over:
                return

    def _key(self, segment: int) -> str:
        return f"{self._job_id}/{keys.log(self._driver_id, segment)}"
