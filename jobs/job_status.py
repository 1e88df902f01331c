"""How a job stands at one moment, and whether a driver is at work on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from schemas.codes import State
from schemas.records import Cancelled, Failed, Plan, Progress, Succeeded
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.submission import Submission

PROGRESS_FRESH_S = 15.0
"""A driver whose progress is younger than this is taken for alive where the cluster cannot be asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """A job at one moment: facts of the ledger, and the driver's advisory progress beside them.

    Attributes:
        driver_alive: by the cluster's word or, where it cannot be asked, by fresh progress.
        driver: submission id of the driver at work, if the cluster knows it; the progress may still be another's.
        salvaged: rows that are kept of shards by their number, committed or not, while no driver is at work: see
            `jobs.salvage`.
    """

    job_id: str
    uri: str
    state: State
    spec: JobSpec
    created_at: datetime | None
    terminal: Succeeded | Failed | Cancelled | None
    plan: Plan | None
    progress: Progress | None
    driver_alive: bool
    driver: str | None
    dashboard_url: str | None
    salvaged: Mapping[int, int] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether there is a terminal record."""
        return self.terminal is not None

    @property
    def error_rate(self) -> float:
        """Share of error rows of a succeeded job; 0 before."""
        if not isinstance(self.terminal, Succeeded) or not self.terminal.manifest.num_rows:
            return 0.0
        return self.terminal.manifest.num_error_rows / self.terminal.manifest.num_rows


def is_alive(submissions: Sequence[Submission], progress: Progress | None) -> bool:
    """Whether a driver is at work: the cluster knows its own drivers, progress speaks for those elsewhere."""
    if any(submission.active for submission in submissions):
        return True
    if progress is None or progress.phase == "ended":
        return False
    if any(submission.submission_id == progress.driver for submission in submissions):
        return False
    age = datetime.now(UTC) - datetime.fromisoformat(progress.updated_at)
    # Either sign: a driver whose clock is ahead must not seem alive for as long after its death.
    return abs(age.total_seconds()) < PROGRESS_FRESH_S
