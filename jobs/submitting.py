"""Submission of a job: its spec from a dataset and options, the checks, and the writes in a safe order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import TYPE_CHECKING
from uuid import uuid4

from jobs.buckets import check_buckets
from jobs.errors import UsageError
from jobs.failpoints import failpoint
from jobs.index.jobs import create_job
from jobs.pools.placing import PLACING
from jobs.results.sinks.addresses import exports_of
from jobs.results.sinks.checks import check_exports, check_targets_here
from jobs.spec.options import SubmitOptions, addresses, spec_of
from jobs.spec.preflight import checked, with_moment_of
from jobs.starting import StartClock
from jobs.store.probe import check_write_once
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.client import BatchClient, Dataset
    from jobs.frames import WrittenFrame
    from jobs.job import Job
    from schemas.exports import Export
    from schemas.pools import Placement


@contextmanager
def dataset_spec(
    client: BatchClient, dataset: Dataset, options: SubmitOptions, placement: Placement | None
) -> Iterator[tuple[JobSpec, WrittenFrame | None]]:
    """Yield the spec of a job, and its rows on this machine if they are a data frame's."""
    settings, pool = client.settings, client.pool_of(placement)
    if isinstance(dataset, JobSpec):
        if any(name not in PLACING for name in options):
            raise UsageError("A spec takes no options beside it.", "Change it: spec.evolve(…).")
        yield dataset, None
    elif isinstance(dataset, str | PathLike):
        yield spec_of(fspath(dataset), options, settings, pool=pool), None
    elif isinstance(dataset, list | tuple) and (not dataset or any(isinstance(e, str | PathLike) for e in dataset)):
        yield spec_of(addresses(dataset), options, settings, pool=pool), None
    else:
        from jobs.frames import NAME, as_parquet

        with as_parquet(dataset) as frame:
            yield spec_of(str(frame.folder), {"name": NAME, **options}, settings, pool=pool), frame


def submit(
    client: BatchClient,
    spec: JobSpec,
    job_id: str,
    *,
    placement: Placement | None,
    frame: WrittenFrame | None,
    exports: Sequence[Export],
    before_writing: Callable[[], None],
    tell: Callable[[str], None],
) -> tuple[Job, bool]:
    """Check everything that can be checked before a replica starts, write the spec, start a driver.

    See `BatchClient.submit_spec`.
    """
    job, allowed = client.exact_job(job_id), client.settings.allowed_buckets
    clock = job.starting = client.starting or StartClock("command")
    clock.mark("command line")
    check_buckets(spec.input.uris, allowed)
    spec = with_moment_of(job.ledger, spec)
    client.check_packages(spec.engine.name)
    # Where the cluster is elsewhere, a model directory may exist only there: its driver checks it first of all.
    elsewhere = client.settings.address is not None
    # The driver writes the results where they are to go when nobody may be looking.
    check_exports(spec, allowed)
    if not elsewhere:
        check_targets_here(exports_of(spec.export), allowed)
    spec = checked(
        spec,
        client.store,
        model_may_be_elsewhere=elsewhere,
        exports=[*exports, *(() if elsewhere else exports_of(spec.export))],
        allowed_buckets=allowed,
        tell=tell,
    )
    check_write_once(client.store)
    clock.mark("checks of dataset, model and store")
    client.submitter()
    clock.mark("connection to the cluster")
    if placement is not None:
        client.pools().check(placement, spec)
    before_writing()
    if frame is not None:
        spec = spec.evolve(input=spec.input.evolve(uri=frame.uri(client.store)))
        if job.ledger.created_at() is None:  # else the job has its input, or the id is another job's
            frame.upload(client.store, writer=f"submit/{uuid4().hex}")
    failpoint("submit.before_spec")
    created = create_job(job.ledger, spec, writer=f"submit/{uuid4().hex}")
    failpoint("submit.after_spec")
    if placement is not None or not created:
        job.ledger.place(placement)
    clock.mark("upload")
    started = job.resume(attended=False)
    failpoint("submit.after_start")
    if started and elsewhere:
        # The embedded cluster runs this very Python; another one may lack the program.
        job.check_start()
    return job, created
