"""The rounds of one scheduled date: jobs of which one has its rows in a table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.ledger import Ledger
from schemas.schedule_keys import job_id_of, run_key, run_of_job


@dataclass(frozen=True, slots=True)
class Rounds:
    """A job among the rounds of its date; a job that no schedule has submitted is alone.

    Attributes:
        job_id: the job.
        first: id of the date's first round; None for a job that is alone.
    """

    job_id: str
    first: str | None = None

    def number(self, job_id: str) -> int | None:
        """Return which round of the date a job is, from 1; None if it is none of them."""
        if self.first is None:
            return 1 if job_id == self.job_id else None
        if job_id == self.first:
            return 1
        later = re.fullmatch(rf"{re.escape(self.first)}-r([1-9]\d{{0,8}})", job_id)
        return int(later[1]) if later and int(later[1]) > 1 else None

    def earlier(self, job_ids: set[str]) -> list[str]:
        """Return those of the jobs that are earlier rounds, in order."""
        return [each for number, each in self._numbered(job_ids) if number < self._own]

    def later(self, job_ids: set[str]) -> list[str]:
        """Return those of the jobs that are later rounds, in order."""
        return [each for number, each in self._numbered(job_ids) if number > self._own]

    @property
    def limits(self) -> tuple[str, str] | None:
        """Bounds of the ids of all rounds in text order, the second one excluded; None for a job that is alone."""
        # `.` comes right after `-` in ASCII.
        return (self.first, f"{self.first}.") if self.first else None

    @property
    def _own(self) -> int:
        number = self.number(self.job_id)
        assert number is not None, "it is its own round"
        return number

    def _numbered(self, job_ids: set[str]) -> list[tuple[int, str]]:
        return sorted((number, each) for each in job_ids if (number := self.number(each)) is not None)


def rounds_of(ledger: Ledger) -> Rounds:
    """Return a job's rounds: its id names a schedule's run, and the schedule has such a run."""
    run = run_of_job(ledger.job_id)
    if run is None or ledger.store.head(run_key(*run, "run")) is None:
        return Rounds(ledger.job_id)
    return Rounds(ledger.job_id, job_id_of(run[0], run[1]))
