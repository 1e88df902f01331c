"""The status of a job at one moment, as a value, and how its state follows from the ledger. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from jobs.results.gates import describe
from jobs.results.sinks.records import ExportState
from jobs.status.quality import quality_of
from schemas.codes import HELD, State
from schemas.limits import LimitNotice, Limits, Pause
from schemas.records import Cancelled, Failed, Interruption, Manifest, Plan, Progress, Quality, Succeeded
from schemas.spec import JobSpec


def derive_state(
    terminal: Succeeded | Failed | Cancelled | None,
    *,
    planned: bool,
    driver_seen: bool,
    driver_alive: bool,
    paused: bool = False,
) -> State:
    """Derive the state of a job.

    Args:
        terminal: the terminal record, which decides alone if there is one.
        planned: whether the plan is written.
        driver_seen: whether a driver has ever started or been asked for.
        driver_alive: whether a driver works on the job now, by the best evidence available (the
            cluster's list, or fresh progress). For display only: no decision depends on it.
        paused: whether a person has paused it. Its driver may still be ending.
    """
    if terminal is not None:
        return ended_state(terminal)
    if paused:
        return State.PAUSED
    if not driver_alive:
        return State.INTERRUPTED if driver_seen or planned else State.QUEUED
    return State.RUNNING if planned else State.PLANNING if driver_seen else State.QUEUED


def ended_state(terminal: Succeeded | Failed | Cancelled) -> State:
    """Return the state of a job that has this terminal record; a crossed gate stands in its manifest."""
    if isinstance(terminal, Succeeded) and terminal.manifest.crossed_gates:
        return State.GATE_FAILED
    return State(terminal.state)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """A job at one moment: facts of the ledger, and the driver's advisory progress beside them.

    Attributes:
        driver_alive: see `jobs.status.liveness`.
        driver: submission id of the driver at work, if the cluster knows it; the progress may still be another's.
        interruption: why an interrupted or paused job has no driver.
        pause: who has paused it, and when; None unless it is paused.
        notices: what was said about its limits, in order, since they were last changed.
        limits: those in force.
        damage: which of the job's documents is damaged, and what to do about it; "" if none is.
        duration_s: seconds from the submission to the end, or to the driver's last report, by the store's clock; None
            before there is one.
        schedule: name of the schedule that has submitted the job; None if none has.
        exports: the exports that the job's spec asks for, and those done by hand once the job has succeeded.
        exporting: whether a driver is at work on exports of a job that has succeeded.
        salvaged: number of salvaged rows by shard, committed or not, while no driver is at work: see `jobs.salvage`.
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
    interruption: Interruption | None = None
    pause: Pause | None = None
    notices: tuple[LimitNotice, ...] = ()
    limits: Limits = field(default_factory=Limits)
    damage: str = ""
    duration_s: float | None = None
    schedule: str | None = None
    exports: tuple[ExportState, ...] = ()
    exporting: bool = False
    salvaged: Mapping[int, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        from jobs.status.display import one_line
        from jobs.status.summary import summarise

        return f"<JobStatus of {self.job_id}: {one_line(summarise(self))}>"

    def _repr_html_(self) -> str:
        from jobs.status.html import summary_html
        from jobs.status.summary import summarise

        return summary_html(summarise(self))

    @property
    def reason(self) -> str:
        """Why the job failed, did not pass its gates, was cancelled or is interrupted; "" in every other state."""
        if isinstance(self.terminal, Succeeded):
            return describe(self.terminal.manifest.crossed_gates)
        if isinstance(self.terminal, Failed):
            return self.terminal.reason
        if isinstance(self.terminal, Cancelled):
            return f"Cancelled by {self.terminal.by}."
        return self.interruption.reason if self.interruption else ""

    @property
    def hint(self) -> str:
        """The next step for a job that has not ended and is not at work; "" in every other state."""
        if self.state is State.QUEUED and not self.driver_alive:
            return (
                "No driver has been seen: its cluster may be gone, or this command may ask another one. "
                f"Start a driver: jobs resume {self.job_id}"
            )
        return self.interruption.hint if self.interruption else ""

    @property
    def held(self) -> bool:
        """Whether only a person resumes the job: it is paused, or stopped by a limit."""
        return self.state is State.PAUSED or (self.interruption is not None and self.interruption.code in HELD)

    @property
    def terminal_manifest(self) -> Manifest | None:
        """The manifest of a job that has a result for every row; None in every other state."""
        return self.terminal.manifest if isinstance(self.terminal, Succeeded) else None

    @property
    def quality(self) -> Quality | None:
        """How the rows that are committed were answered; None if nothing is known about it."""
        return quality_of(self.spec, self.terminal, self.progress)

    @property
    def ended(self) -> bool:
        """Whether the job has a terminal record."""
        return self.terminal is not None

    @property
    def error_rate(self) -> float:
        """Share of error rows of a job that has a result for every row; 0 before."""
        if not isinstance(self.terminal, Succeeded) or not self.terminal.manifest.num_rows:
            return 0.0
        return self.terminal.manifest.num_error_rows / self.terminal.manifest.num_rows
