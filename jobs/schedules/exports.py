"""Where the results of a schedule's runs go before readers are led to them."""

from __future__ import annotations

from jobs.ledger import Ledger
from jobs.results.sinks.addresses import exports_of
from schemas.exports import Export
from schemas.schedules import Run, run_key, run_of_job


def exports_of_run(run: Run) -> tuple[Export, ...]:
    """Return a run's exports, those of older versions too."""
    older = [Export(target=run.export)] if run.export is not None else []
    return (*exports_of(run.spec.export), *older)


def exports_of_job(ledger: Ledger) -> tuple[Export, ...]:
    """Return what was asked for when a job was submitted: by its spec, or by the run of the schedule that has done it.

    Raises:
        UsageError: no such job.
    """
    asked = exports_of(ledger.spec().export)
    place = run_of_job(ledger.job_id)
    data = None if place is None else ledger.store.get(run_key(*place, "run"))
    return (*asked, *(exports_of_run(Run.from_json(data)) if data is not None else ()))
