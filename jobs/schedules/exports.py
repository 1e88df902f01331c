"""Where the results of a schedule's runs go before readers are led to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jobs.documents import read_document
from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.results.sinks.addresses import absolute, exports_of
from jobs.results.sinks.checks import check_exports
from jobs.results.sinks.records import states
from jobs.validation import validated
from schemas.exports import Export, ExportSpec
from schemas.schedule_keys import run_key, run_of_job
from schemas.schedules import Run


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
    key = "" if place is None else run_key(*place, "run")
    data = ledger.store.get(key) if key else None
    if data is None:
        return tuple(asked)
    return (*asked, *exports_of_run(read_document(data, f"{ledger.store.uri}/{key}", Run.from_json)))


def why_not_exported(ledger: Ledger, run: Run) -> str | None:
    """Return why the last try to export a run's job has failed, if one has and it is not done."""
    failures = [state.failure for state in states(ledger, exports_of_run(run)) if state.failure is not None]
    return f"{failures[0].reason} {failures[0].hint}".strip() if failures else None


def exports_wanted(
    ledger: Ledger,
    targets: Sequence[str],
    options: Mapping[str, Any],
    allowed_buckets: Collection[str] | None,
    label: Callable[[str], str] = lambda field: f"`{field}`",
) -> Sequence[Export]:
    """Return the exports of a job to these targets, or those that were asked for at submit if there are none.

    Args:
        options: fields of `ExportSpec` besides the targets.
        label: returns what errors call a field.

    Raises:
        UsageError: no such job, a target or an option that is not valid, or nothing to do.
    """
    values = {"targets": tuple(absolute(target) for target in targets), **options}
    wanted = validated(ExportSpec, values, label)
    check_exports(ledger.spec().evolve(export=wanted), allowed_buckets)
    exports = exports_of(wanted) if targets else exports_of_job(ledger)
    if not exports:
        raise UsageError(
            f"No export was asked for when {ledger.job_id} was submitted.",
            f"Say where its results are to go: jobs export {ledger.job_id} TARGET",
        )
    return exports
