"""The Python client: submit a job, follow it, get at its results. The command line is built on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from jobs import settings as settings_module
from jobs.errors import ClusterError, UsageError
from jobs.job import Job
from jobs.job_ids import find_job, resolve_jobs
from jobs.ledger import Ledger, list_jobs
from jobs.settings import Settings
from jobs.status.job_status import JobStatus
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas.environment import SUBMISSION_ID
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.cluster.submission import Submitter
    from jobs.frames import Frame, WrittenFrame
    from jobs.planning.estimate import Estimate
    from jobs.pools.client import Pools
    from jobs.schedules.client import Schedules
    from jobs.spec.options import SubmitOptions
    from jobs.starting import StartClock
    from schemas.exports import Export
    from schemas.pools import Placement, PoolSpec

    Dataset = str | PathLike[str] | Sequence[str | PathLike[str]] | Frame | JobSpec

__all__ = ["BatchClient", "Job", "JobStatus"]


def _nothing(*_: object) -> None:
    """Do nothing: the default callback."""


class BatchClient:
    """Entry point of the Python interface.

    Args:
        settings: all settings; default: those of the environment and `jobs.toml`.
        root, address, token_path, pool: override the environment and `jobs.toml`, like the options of that name.

    Raises:
        UsageError: a setting is not valid.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        root: str | Path | None = None,
        address: str | None = None,
        token_path: str | Path | None = None,
        pool: str | None = None,
    ) -> None:
        given = {"root": root and str(root), "address": address, "token_path": token_path, "pool": pool}
        if settings is None:
            settings = settings_module.load(given)
        elif any(given.values()):
            raise UsageError("Settings are given, and root, address, token_path or pool too.", "Give one of both.")
        self.settings = settings
        self._submitter: Submitter | None = None
        self.starting: StartClock | None = None
        """Clock of a program that submits one job; None: each submission begins its own."""
        self.before_cluster_start: Callable[[], None] = _nothing
        """Called before the embedded cluster is started, which takes seconds."""

    @cached_property
    def store(self) -> ObjectStore:
        """The object store that holds the job directories."""
        return open_store(self.settings.root)

    def job(self, reference: str) -> Job:
        """Find a job by its id, the beginning of its id, its name, or `latest`.

        Raises:
            UsageError: no job, or several, fit; the error names those that are near, or that fit.
            StoreError: the store cannot be reached.
        """
        return Job(self, find_job(self.store, reference))

    def exact_job(self, job_id: str) -> Job:
        """Return the job of that very id, without a look whether it exists."""
        return Job(self, Ledger(self.store, job_id))

    def jobs(self) -> Iterator[Job]:
        """Return all jobs under the root, in name order."""
        return (Job(self, ledger) for ledger in list_jobs(self.store))

    def submit(
        self,
        dataset: Dataset,
        *,
        job_id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit a dataset, with the options of `jobs submit`: `client.submit("data.parquet", model="/models/x")`.

        Args:
            dataset: file, directory, glob, s3:// URI or table, or a list of them; a data frame of pandas or polars, or
                an Arrow table, which is written below the root; or a whole spec, which takes no options.
            job_id: default: made of the dataset's name and the time. The same spec under the same id attaches, and so
                does the same data frame.

        Raises:
            UsageError: bad options, bad input or bad model.
            Conflict: the id is taken by another spec.
            StoreError, ClusterError: store or cluster cannot be used.
        """
        from jobs.spec.build import new_job_id
        from jobs.submitting import dataset_spec

        placement = self.placement_of(options)
        with dataset_spec(self, dataset, options, placement) as (spec, frame):
            spec = resolve_jobs(self.store, spec)
            return self.submit_spec(spec, job_id or new_job_id(spec.name), frame=frame, placement=placement)[0]

    async def submit_async(
        self,
        dataset: Dataset,
        *,
        job_id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit in a thread, like `submit`: `await client.submit_async("data.parquet")`."""
        import asyncio

        return await asyncio.to_thread(self.submit, dataset, job_id=job_id, **options)

    def plan(
        self,
        dataset: Dataset,
        *,
        sample_rows: int = 20_000,
        tokens_per_s: float | None = None,
        gpu_hour_price: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Estimate:
        """Estimate a job without running it: rows, tokens, errors, GPU-hours and cost.

        Args:
            dataset, options: as for `submit`.
            sample_rows: rows to tokenise; the estimate scales more rows up.
            tokens_per_s: throughput of one replica; default: as observed with earlier jobs under the root.
            gpu_hour_price: price of one GPU for one hour; default: the setting of that name.

        Raises:
            UsageError, StoreError: as `submit`.
        """
        from jobs.planning.dry_run import dry_run
        from jobs.submitting import dataset_spec

        placement = self.placement_of(options)
        with dataset_spec(self, dataset, options, placement) as (spec, _):
            return dry_run(
                resolve_jobs(self.store, spec),
                self.store,
                allowed_buckets=self.settings.allowed_buckets,
                sample_rows=sample_rows,
                tokens_per_s=tokens_per_s,
                gpu_hour_price=self.settings.gpu_hour_price if gpu_hour_price is None else gpu_hour_price,
                warn=partial(warnings.warn, stacklevel=2),
                placement=placement,
            ).estimate

    def schedules(self) -> Schedules:
        """Return the schedules under the root, to create, list, show and run."""
        from jobs.schedules.client import Schedules

        return Schedules(self.store, self.settings)

    def pools(self) -> Pools:
        """Return the pools under the root, to start, list and end."""
        from jobs.pools.client import Pools

        return Pools(self)

    def placement_of(self, options: Mapping[str, Any]) -> Placement | None:
        """Return the claim of a job in a pool, by its options and the settings; None: no pool.

        Raises:
            UsageError: a value is wrong.
        """
        from jobs.pools.placing import placement_of

        return placement_of(options, {}, self.settings)

    def pool_of(self, placement: Placement | None) -> PoolSpec | None:
        """Return the pool of a claim; None: no pool.

        Raises:
            UsageError: it is not up.
        """
        from jobs.pools.book import PoolBook

        return None if placement is None else PoolBook(self.store).standing(placement.pool)

    def submit_spec(
        self,
        spec: JobSpec,
        job_id: str,
        *,
        placement: Placement | None = None,
        frame: WrittenFrame | None = None,
        exports: Sequence[Export] | None = None,
        before_writing: Callable[[], None] = _nothing,
        tell: Callable[[str], None] = _nothing,
    ) -> tuple[Job, bool]:
        """Check everything that can be checked before a replica starts, write the spec, start a driver.

        Submitting the same spec under the same id again attaches to the job, and resumes it if it was interrupted; not
        if it is paused, or was stopped by a limit.

        Args:
            placement: the pool that the job computes in, and its claim there; None: engines of its own. It is no part
                of the job's identity, and what was said last counts.
            frame: the rows that the spec's input names, on this machine; they are written to the root.
            exports: exports that this process will carry out when the job has succeeded, besides those of its driver.
            tell: called with a sentence on what lies beside the dataset's files and is not read.
            before_writing: called when all checks have passed; before that, nothing of the job is in the store.

        Returns:
            The job, and whether this call created it.

        Raises:
            UsageError: bad input or model, see `jobs.spec.preflight.checked`, a bucket that is not allowed, or a pool
                that is down or does not fit.
            Conflict: the id is taken by another spec.
            MissingPackage: the job would run in this Python, which lacks something.
            StoreError, ClusterError: store or cluster cannot be used.
        """
        from jobs.submitting import submit

        return submit(
            self,
            spec,
            job_id,
            placement=placement,
            frame=frame,
            exports=exports or (),
            before_writing=before_writing,
            tell=tell,
        )

    def start_driver(self, ledger: Ledger, spec: JobSpec, submission_id: str, clock: StartClock | None = None) -> bool:
        """Submit a driver to the cluster; return False if the cluster has that submission already.

        Args:
            clock: has measured the start so far, which is stored with the submission; None begins now.

        Raises:
            MissingPackage: it would run in this Python, which lacks something.
        """
        from jobs.cluster.submission import describe, driver_environment
        from jobs.starting import StartClock

        clock = clock or StartClock("command")
        self.check_packages(spec.engine.name)
        metadata = describe(
            name=spec.name,
            job_id=ledger.job_id,
            job_uri=ledger.uri,
            dataset=spec.input.shown,
            model=spec.model.path,
        )
        started = self.submitter().submit(
            ledger.uri,
            submission_id,
            metadata,
            driver_environment(self.settings.allowed_buckets) | {SUBMISSION_ID: submission_id},
            pool=placement.pool if (placement := ledger.placement()) else None,
        )
        if started:
            clock.mark("submission of the driver")
            clock.write(ledger, submission_id)
        return started

    def check_packages(self, engine: Literal["vllm", "fake"]) -> None:
        """Check that the embedded cluster, which runs this very Python, can run the engine.

        Raises:
            MissingPackage: it lacks something.
        """
        from jobs.packages import check_packages

        if self.settings.address is None:
            check_packages(engine)

    def submitter(self) -> Submitter:
        """Connect to the cluster's job API. If no cluster is configured, start the embedded one.

        Raises:
            ClusterError: the cluster cannot be started or reached.
        """
        from jobs.cluster import embedded as cluster

        if (running := self.running_submitter()) is not None:
            return running
        self.before_cluster_start()
        cluster.up()
        started = self.running_submitter()
        if started is None:
            raise ClusterError("The embedded cluster ended right after it started.", "See what it says: jobs doctor")
        return started

    def token_path(self) -> Path | None:
        """Return the file with the token for the cluster's dashboard, if known."""
        from jobs.cluster import embedded as cluster

        if self.settings.address is not None:
            return self.settings.token_path
        return embedded.token_path if (embedded := cluster.current()) else None

    def reachable_submitter(self) -> Submitter | None:
        """Connect to the cluster's job API; None if there is no cluster or it cannot be reached."""
        try:
            return self.running_submitter()
        except ClusterError:
            return None

    def running_submitter(self) -> Submitter | None:
        """Connect to the cluster's job API; None if the embedded cluster would have to be started first.

        Raises:
            ClusterError: the cluster cannot be started or reached.
        """
        if self._submitter is None:
            from jobs.cluster import embedded as cluster
            from jobs.cluster.submission import Submitter

            if self.settings.address is not None:
                self._submitter = Submitter(self.settings.address, self.settings.token_path)
            elif embedded := cluster.current():
                self._submitter = Submitter(embedded.dashboard_url, embedded.token_path)
        return self._submitter
