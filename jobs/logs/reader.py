"""Reader of a job's log: from the cluster that runs its driver, else from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from jobs.errors import ClusterError
from jobs.ledger import Ledger
from jobs.logs.lines import Line, RawLines, stored
from jobs.logs.stored import StoredLogs
from jobs.looks import Looks
from schemas.logs import LogLine

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission, Submitter

LOOK_S = 2.0
"""Seconds between looks at the store while a log is followed there."""


class LogReader:
    """Reads the log of one job, driver by driver, oldest first.

    The store has the lines of our own loggers. The cluster that ran a driver has all that it and its replicas have
    printed, up to this moment, as long as that cluster is there.

    Args:
        submitter: the cluster; None if none can be reached.
        submissions: the job's drivers that this cluster knows.
        everything: read what other libraries have printed, too, where the cluster still has it.

    Attributes:
        only_stored: whether some driver's lines could be read only from the store.
    """

    def __init__(
        self, ledger: Ledger, submitter: Submitter | None, submissions: Sequence[Submission], *, everything: bool
    ) -> None:
        self._job_id, self._submitter = ledger.job_id, submitter
        self._submissions = {each.submission_id: each for each in submissions} if submitter else {}
        self._everything, self._store = everything, StoredLogs(ledger)
        self._num_read: dict[str, int] = {}
        self._last_read: dict[str, LogLine] = {}
        self.only_stored = False

    def so_far(self) -> list[Line]:
        """Return all lines until now.

        Raises:
            ClusterError: nothing is kept of the log, or the cluster does not answer.
            StoreError: the store does not answer.
        """
        kept = self._store.read()
        if not kept and not self._submissions:
            raise ClusterError(
                f"There is no log of job {self._job_id}: no driver has logged anything to the store, and no running "
                "cluster that this command knows has run the job.",
                f"If it runs elsewhere, name the cluster: JOBS_ADDRESS=http://HOST:8265 jobs logs {self._job_id}. "
                f"Why the job is not at work: jobs status {self._job_id}",
            )
        began = {driver: lines[0].at for driver, lines in kept.items()}
        began |= {driver: each.started_at or time.time() for driver, each in self._submissions.items()}
        found: list[Line] = []
        for driver in sorted(began, key=began.__getitem__):
            if self._is_on_cluster(driver, is_stored=driver in kept):
                # A driver on an earlier cluster may have had the same id.
                found += _shown(each for each in kept.get(driver, []) if each.at < began[driver])
                lines = self._raw(driver)
                self._num_read[driver] = len(lines)
                found += lines
            else:
                # Replicas hand over their lines every few seconds, so those in the store are not in order of time.
                found += _shown(sorted(kept[driver], key=lambda each: each.at))
                self.only_stored = True
        self._last_read = {driver: lines[-1] for driver, lines in kept.items()}
        return found

    def following(self, is_over: Callable[[], bool]) -> Iterator[Line]:
        """Yield the lines that come after `so_far`, until the drivers that are at work have ended.

        Args:
            is_over: returns whether no driver is at work; asked only where the cluster cannot tell.
        """
        active = [driver for driver, each in self._submissions.items() if each.active]
        if not active:
            yield from self._following_store(is_over)
        for driver in active:
            assert self._submitter is not None
            lines = self._only(_whole(self._submitter.tail(driver)))
            for number, line in enumerate(lines):
                if number >= self._num_read.get(driver, 0):
                    yield line

    def _following_store(self, is_over: Callable[[], bool]) -> Iterator[Line]:
        looks = Looks(LOOK_S)
        while True:
            was_over = is_over()  # asked before the last look, so that no line is missed
            for driver, kept in self._store.read().items():
                yield from _shown(_after(self._last_read.get(driver), kept))
                self._last_read[driver] = kept[-1]
            if was_over:
                return
            looks.pause()

    def _is_on_cluster(self, driver: str, *, is_stored: bool) -> bool:
        """Return whether to read a driver's log from the cluster.

        The store has all own lines of a driver that has ended in order, those included that Ray has not forwarded
        when the driver ended; of one that is at work or was killed it lacks the last seconds.
        """
        submission = self._submissions.get(driver)
        if submission is None:
            return False
        in_order = submission.exit_code is not None and submission.exit_code >= 0
        return self._everything or not is_stored or submission.active or not in_order

    def _raw(self, driver: str) -> list[Line]:
        assert self._submitter is not None
        raw = RawLines()
        lines = raw.feed(self._submitter.logs(driver))
        if not self._submissions[driver].active:
            lines += raw.flush()
        return list(self._only(iter(lines)))

    def _only(self, lines: Iterator[Line]) -> Iterator[Line]:
        return lines if self._everything else (line for line in lines if line.is_own)


def _whole(pieces: Iterable[str]) -> Iterator[Line]:
    raw = RawLines()
    for piece in pieces:
        yield from raw.feed(piece)
    yield from raw.flush()


def _shown(lines: Iterable[LogLine]) -> Iterator[Line]:
    return (shown for line in lines for shown in stored(line))


def _after(last: LogLine | None, lines: list[LogLine]) -> list[LogLine]:
    """Return the lines after this one; all of them if it is there no more."""
    return lines[lines.index(last) + 1 :] if last in lines else lines
