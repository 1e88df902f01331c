"""From what a person calls a job to its id: the id, the beginning of one, `latest`, or the job's name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import datetime

from jobs.errors import Damaged, UsageError
from jobs.index.jobs import JobIndex, JobsThere
from jobs.ledger import Ledger
from jobs.store.base import ObjectStore
from jobs.text import printable
from jobs.threads import in_threads
from jobs.tombstones import check_not_deleted
from schemas.records import InputTable
from schemas.spec import AUTO, JOB_ID, LAST_GOOD, JobSpec

LATEST = "latest"

SINCE_JOB = "job:"
"""Before a job in `input.since`: the versions of tables that this job has read."""

MAX_SHOWN = 10
_REQUESTS_AT_ONCE = 16
_MAX_CHARACTERS = 100


def find_job(store: ObjectStore, reference: str) -> Ledger:
    """Find the job that is meant. An exact id comes first and costs one request; then come the beginning of an id,
    `latest` (the job that was created last), and a job's name.

    Raises:
        UsageError: no job, or several, fit; says which are near or which ones fit. `Deleted`, if it was deleted.
        StoreError: the store cannot be reached.
    """
    if JOB_ID.fullmatch(reference) and (exact := Ledger(store, reference)).created_at() is not None:
        return exact
    if JOB_ID.fullmatch(reference):
        check_not_deleted(store, reference)
    named = printable(reference[:_MAX_CHARACTERS]) or "''"
    there = JobIndex(store).look()
    ledgers = sorted((*there.others, *(Ledger(store, job_id) for job_id in there.ended)), key=lambda each: each.job_id)
    if reference == LATEST:
        known = max(there.ended.values(), key=lambda job: (job.created_at, job.job_id), default=None)
        dated = _with_spec([*there.others, *([Ledger(store, known.job_id)] if known else [])])
        if not dated:
            raise UsageError(f"There are no jobs under {store.uri}.", "Submit one: jobs submit dataset.parquet")
        return max(dated, key=lambda each: (each[0], each[1].job_id))[1]
    matching = [ledger for ledger in ledgers if reference and ledger.job_id.startswith(reference)]
    found, names = [ledger for _, ledger in _with_spec(matching)], list[str]()
    if not found and reference:
        names = _names(ledgers, there)
        found = [ledger for ledger, name in zip(ledgers, names, strict=True) if name == reference]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(ledger.job_id for ledger in found[:MAX_SHOWN])
        more = f" and {len(found) - MAX_SHOWN:,} more" if len(found) > MAX_SHOWN else ""
        raise UsageError(f"{len(found):,} jobs fit {named}: {shown}{more}.", "Write more of the id.")
    words = {word for ledger, name in zip(ledgers, names, strict=False) if name for word in (ledger.job_id, name)}
    near = difflib.get_close_matches(reference, sorted(words), n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"No job {named} under {store.uri}.", f"{hint}List the jobs with: jobs list")


def resolve_jobs(store: ObjectStore, spec: JobSpec, *, of_schedule: bool = False) -> JobSpec:
    """Return the spec with exact ids of the jobs that it reuses, and the versions of tables that a job has read.

    Args:
        of_schedule: the spec is a schedule's: each run finds out which one the last good run is.

    Raises:
        UsageError: as `find_job`; or a job after which rows are wanted has read no table of the input.
        StoreError: the store cannot be reached.
    """
    return _resolve_since(store, _resolve_reuse(store, spec, of_schedule=of_schedule), of_schedule=of_schedule)


def _resolve_since(store: ObjectStore, spec: JobSpec, *, of_schedule: bool) -> JobSpec:
    since = spec.input.since
    if LAST_GOOD in since and not of_schedule:
        raise UsageError(
            f"--since {LAST_GOOD} is for schedules: it means what the last good run before has read.",
            "Name a version of the table, or the job that has read it: --since job:ID",
        )
    if len(since) != 1 or not since[0].startswith(SINCE_JOB):
        return spec
    ledger = find_job(store, since[0].removeprefix(SINCE_JOB))
    if (plan := ledger.plan()) is None:
        raise UsageError(
            f"--since {since[0]}: {ledger.job_id} has not been planned, so what it reads is not known yet.",
            f"Wait until it has: jobs wait {ledger.job_id}",
        )
    return after_tables(spec, plan.tables, ledger.job_id)


def after_tables(spec: JobSpec, tables: Sequence[InputTable], reader: str) -> JobSpec:
    """Return the spec with the versions that a job has read as those after which rows are wanted.

    A table that the job has not read is read whole.

    Args:
        tables: the tables of that job's plan.
        reader: what read them, for errors.

    Raises:
        UsageError: none of them is among the inputs.
    """
    versions = {table.uri: table.version for table in tables}
    found = {uri: versions[uri.rstrip("/")] for uri in spec.input.uris if uri.rstrip("/") in versions}
    if not found:
        raise UsageError(
            f"{reader} has read no table that is an input now, so which rows are new is not known.",
            "Name the version after which rows are wanted, or take all rows once, without --since.",
        )
    return spec.evolve(input=spec.input.evolve(since=tuple(f"{uri}={version}" for uri, version in found.items())))


def _resolve_reuse(store: ObjectStore, spec: JobSpec, *, of_schedule: bool) -> JobSpec:
    if LAST_GOOD in spec.reuse and not of_schedule:
        raise UsageError(
            f"--reuse {LAST_GOOD} is for schedules: it names the last good run before.",
            f"Name a job, or take every one that fits: --reuse {AUTO}",
        )
    later = (AUTO, LAST_GOOD) if of_schedule else (AUTO,)
    found = tuple(job if job in later else find_job(store, job).job_id for job in spec.reuse)
    return spec if found == spec.reuse else spec.evolve(reuse=found)


def _with_spec(ledgers: Sequence[Ledger]) -> list[tuple[datetime, Ledger]]:
    """Return the jobs among these folders, with the times of their creation."""
    created = in_threads(_REQUESTS_AT_ONCE, Ledger.created_at, ledgers)
    return [(at, ledger) for at, ledger in zip(created, ledgers, strict=True) if at is not None]


def _names(ledgers: Sequence[Ledger], there: JobsThere) -> list[str]:
    """Return the name of each job, "" where there is no spec or none that can be read."""

    def name(ledger: Ledger) -> str:
        if (known := there.ended.get(ledger.job_id)) is not None:
            return known.name
        try:
            return ledger.spec().name
        except (UsageError, Damaged):
            return ""

    return in_threads(_REQUESTS_AT_ONCE, name, ledgers)
