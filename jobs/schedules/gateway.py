"""Operations on jobs that a scheduler needs: the protocol, and its implementation by the client."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from jobs.buckets import check_bucket
from jobs.client import BatchClient, JobStatus
from jobs.dataset.finding import find_sources
from jobs.errors import Conflict, InvalidInput
from jobs.ledger import Ledger
from jobs.schedules.decide import JobView
from jobs.settings import Settings
from schemas.records import Failed, Succeeded
from schemas.spec import JobSpec


class JobGateway(Protocol):
    """Operations on jobs. Methods may raise `StoreError` or `ClusterError` (transient), or `UsageError` (permanent)."""

    def view(self, job_id: str) -> JobView | None:
        """Return the state of a job, or None if it was never submitted."""

    def is_there(self, uri: str) -> bool:
        """Return whether there is a file at an address."""

    def submit(self, spec: JobSpec, job_id: str) -> None:
        """Submit a job; one that exists already with this spec is left alone."""

    def resume(self, job_id: str) -> None:
        """Start a driver for a job that has none."""

    def cancel(self, job_id: str, by: str) -> None:
        """End a job."""

    def check_export(self, target: str) -> None:
        """Raise if results cannot be written there."""

    def export(self, job_id: str, target: str) -> None:
        """Write a job's results to a file or an object, whole or not at all."""

    def uri(self, job_id: str) -> str:
        """Return the address of the job directory."""


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
        except InvalidInput:
            return False
        return True

    def submit(self, spec: JobSpec, job_id: str) -> None:
        try:
            self._client().submit_spec(spec, job_id)
        except Conflict:
            # Another scheduler may have submitted it, with the model as that one pins it. Anything else is a conflict.
            standing = self._ledger(job_id).spec()
            if standing.evolve(model=spec.model) != spec:
                raise

    def resume(self, job_id: str) -> None:
        with suppress(Conflict):
            self._client().exact_job(job_id).resume()

    def cancel(self, job_id: str, by: str) -> None:
        self._client().exact_job(job_id).cancel(by)

    def check_export(self, target: str) -> None:
        from jobs.results.targets import check_target, check_writable

        check_target(target, self._settings.allowed_buckets, later=True)
        check_writable(target)

    def export(self, job_id: str, target: str) -> None:
        from jobs.results.export import write_results
        from jobs.results.formats import FileFormat
        from jobs.results.read import open_results
        from jobs.results.responses import Responses, write_responses
        from jobs.results.targets import open_target, target_format

        check_bucket(target, self._settings.allowed_buckets)
        form = target_format(target)
        found = open_results(self._ledger(job_id))
        with open_target(target) as sink:
            if form is FileFormat.OPENAI:
                write_responses(found.tables(verify=True), sink, Responses.of(found.ledger))
            else:
                write_results(found.tables(verify=True), found.schema, sink, form)

    def uri(self, job_id: str) -> str:
        return self._ledger(job_id).uri

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
    return JobView(state=status.state, driver_alive=status.driver_alive, reason=reason)
