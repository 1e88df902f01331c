"""Operations on jobs that a scheduler needs: the protocol, and its implementation by the client."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple, Protocol

from jobs.buckets import check_bucket, check_buckets
from jobs.client import BatchClient, JobStatus
from jobs.dataset.finding import find_sources
from jobs.dataset.guarded import has_rows
from jobs.errors import Conflict, InvalidInput, MissingInput
from jobs.ledger import Ledger
from jobs.results.sinks.addresses import address_of, check_address, exports_of
from jobs.schedules.decide import JobView
from jobs.schedules.tables import has_commit
from jobs.settings import Settings
from schemas.exports import Export, ExportSpec
from schemas.pools import Placement
from schemas.records import Failed, InputTable, Succeeded
from schemas.schedules import Retention
from schemas.spec import InputSpec, JobSpec


class Read(NamedTuple):
    """Rows that a job has read.

    Attributes:
        since: versions of tables after which rows were wanted, as in its spec.
        tables: the tables of its plan.
    """

    since: tuple[str, ...] = ()
    tables: tuple[InputTable, ...] = ()


class JobGateway(Protocol):
    """Operations on jobs. Methods may raise `StoreError` or `ClusterError` (transient), or `UsageError` (permanent)."""

    def view(self, job_id: str) -> JobView | None:
        """Return the state of a job, or None if it was never submitted."""

    def is_there(self, uri: str) -> bool:
        """Return whether there is a file at an address."""

    def has_commit(self, uri: str, since: datetime | None) -> bool:
        """Return whether a table has got rows after a moment; see `jobs.schedules.tables`."""

    def has_new_rows(self, wanted: InputSpec) -> bool:
        """Return whether a table among the inputs has rows after the version that `since` says."""

    def read(self, job_id: str) -> Read:
        """Return which rows of tables a job has read."""

    def submit(self, spec: JobSpec, job_id: str, placement: Placement | None = None) -> None:
        """Submit a job without its exports, which are the scheduler's; one that exists already is left alone."""

    def resume(self, job_id: str) -> None:
        """Start a driver for a job that has none."""

    def cancel(self, job_id: str, by: str) -> None:
        """End a job."""

    def check_exports(self, exports: Sequence[Export]) -> None:
        """Raise if results cannot be written there."""

    def export(self, job_id: str, exports: Sequence[Export]) -> None:
        """Write a job's results to every target that does not have them; each is written once, whoever tries."""

    def uri(self, job_id: str) -> str:
        """Return the address of the job directory."""

    def retain(self, schedule: str, retention: Retention) -> list[str]:
        """Delete the jobs of a schedule that its policy lets go; return their ids."""


class ClientGateway:
    """Runs jobs through the client, on the cluster of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def view(self, job_id: str) -> JobView | None:
        if self._ledger(job_id).created_at() is None:
            return None
        return view_of(self._client().exact_job(job_id).status())

    def is_there(self, uri: str) -> bool:
        check_bucket(uri, self._settings.allowed_buckets)
        try:
            find_sources(uri)
        except MissingInput:
            return False
        except InvalidInput:
            return True  # waiting mends nothing: the submission says what is wrong
        return True

    def has_commit(self, uri: str, since: datetime | None) -> bool:
        return has_commit(uri, since, self._settings.allowed_buckets)

    def has_new_rows(self, wanted: InputSpec) -> bool:
        check_buckets(wanted.uris, self._settings.allowed_buckets)
        try:
            return has_rows(wanted)
        except MissingInput:
            return False
        except InvalidInput:
            return True  # waiting mends nothing: the submission says what is wrong

    def read(self, job_id: str) -> Read:
        ledger = self._ledger(job_id)
        plan = ledger.plan()
        return Read(ledger.spec().input.since, plan.tables if plan is not None else ())

    def submit(self, spec: JobSpec, job_id: str, placement: Placement | None = None) -> None:
        # Its driver exports nothing: the scheduler does, and then leads readers to the results.
        exports, spec = exports_of(spec.export), spec.evolve(export=ExportSpec())
        try:
            self._client().submit_spec(spec, job_id, placement=placement, exports=exports)
        except Conflict:
            # Another scheduler may have submitted it, with the model as that one pins it. Anything else is a conflict.
            standing = self._ledger(job_id).spec()
            alike = spec.evolve(model=standing.model, input=spec.input.evolve(since=standing.input.since))
            if standing != alike:
                raise

    def resume(self, job_id: str) -> None:
        with suppress(Conflict):
            self._client().exact_job(job_id).resume(attended=False)

    def cancel(self, job_id: str, by: str) -> None:
        self._client().exact_job(job_id).cancel(by)

    def check_exports(self, exports: Sequence[Export]) -> None:
        from jobs.results.sinks.checks import check_targets_here

        self._check_addresses(exports)
        check_targets_here(exports, self._settings.allowed_buckets)

    def export(self, job_id: str, exports: Sequence[Export]) -> None:
        from jobs.results.sinks.exporting import export_all

        self._check_addresses(exports)
        done = export_all(self._ledger(job_id), exports, allowed_buckets=self._settings.allowed_buckets)
        if errors := [each.error for each in done if each.error is not None]:
            raise errors[0]

    def _check_addresses(self, exports: Sequence[Export]) -> None:
        for export in exports:
            address = address_of(export.target, partitioned=bool(export.partition_by))
            check_address(address, self._settings.allowed_buckets)

    def uri(self, job_id: str) -> str:
        return self._ledger(job_id).uri

    def retain(self, schedule: str, retention: Retention) -> list[str]:
        from jobs.retention.policies import retain

        return retain(self._client(), schedule, retention)

    def _client(self) -> BatchClient:
        # A new client each time: the embedded cluster may be another one by now.
        return BatchClient(self._settings)

    def _ledger(self, job_id: str) -> Ledger:
        return Ledger(self._client().store, job_id)


def view_of(status: JobStatus) -> JobView:
    """Convert a job's status to what a scheduler decides by."""
    terminal = status.terminal
    if isinstance(terminal, Succeeded):
        manifest = terminal.manifest
        return JobView(
            state=status.state,
            num_rows=manifest.num_rows,
            num_error_rows=manifest.num_error_rows,
            crossed_gates=manifest.crossed_gates,
            quality=status.quality,
        )
    reason = f"{status.reason} {status.hint}".strip()
    if isinstance(terminal, Failed):
        reason = f"{terminal.code}: {reason}"
    return JobView(
        state=status.state,
        driver_alive=status.driver_alive,
        reason=reason,
        held=status.held,
        notices=status.notices,
    )
