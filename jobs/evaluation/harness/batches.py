"""All requests of one type as one job: submitted, or found again, and awaited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import Exit, JobsError
from jobs.evaluation.harness.rows import CONTEXT
from jobs.frames import as_parquet
from schemas.pools import Placement
from schemas.sampling import Sampling
from schemas.spec import InputSpec, JobSpec

if TYPE_CHECKING:
    from jobs.client import BatchClient, Job

Task = Literal["score", "perplexity", "generate"]
Follow = Callable[["Job"], int]
"""Waits until a job has ended; returns an exit code as `jobs wait` does."""


class Batches:
    """The jobs of one evaluation.

    A job's id follows from the evaluation's id, or without one from model, spec and rows. So the same evaluation finds
    its jobs again: what has ended is read, what was interrupted is resumed.

    Args:
        spec: model, engine, replicas and reuse; task and input are replaced.
        fingerprint: of the model.
        evaluation_id: beginning of the ids of its jobs.
        placement: the pool that they compute in; None: engines of their own.
    """

    def __init__(
        self,
        client: BatchClient,
        spec: JobSpec,
        follow: Follow,
        *,
        fingerprint: str | None,
        evaluation_id: str | None = None,
        placement: Placement | None = None,
    ) -> None:
        self._placement = placement
        self._client, self._spec, self._follow = client, spec, follow
        self._fingerprint, self._evaluation_id = fingerprint, evaluation_id
        self.job_ids: list[str] = []

    def run(self, task: Task, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Run the rows as a job; return these columns of its results, in row order.

        Raises:
            JobsError: the job has not succeeded, or a row has no result.
            Conflict: the job's id is taken by other rows or another spec.
        """
        with as_parquet(rows) as frame:
            spec = self._spec.evolve(
                sampling=Sampling(),  # rows have their own, and a score has none
                name=f"lm-eval {task}",
                task=task,
                input=InputSpec(uri=str(frame.folder), chat=False, keep=(CONTEXT,)),
            )
            job, _ = self._client.submit_spec(
                spec, self._job_id(spec, frame.digest), placement=self._placement, frame=frame
            )
        self.job_ids.append(job.id)
        code = self._follow(job)
        if code not in (Exit.OK, Exit.GATE_CROSSED):
            raise JobsError(f"Job {job.id} has not succeeded.", "The same command goes on with it.")
        results = job.results().to_table(columns=["status", "error_code", *columns])
        failed = results.filter(pc.not_equal(results["status"], "ok"))["error_code"]
        if len(failed) or len(results) != len(rows):
            codes = ", ".join(sorted(set(failed.to_pylist()))) or "missing"
            raise JobsError(
                f"{len(rows) - len(results) + len(failed):,} of {len(rows):,} rows of job {job.id} have no result: "
                f"{codes}.",
                f"See: jobs results {job.id} --failed. With another --id and --reuse {job.id} they are tried again.",
            )
        return results.select(list(columns))

    def _job_id(self, spec: JobSpec, digest: str) -> str:
        if self._evaluation_id is not None:
            again = sum(each.startswith(f"{self._evaluation_id}-{spec.task}") for each in self.job_ids)
            return f"{self._evaluation_id}-{spec.task}{f'-{again + 1}' if again else ''}"
        asked = spec.model_dump_json(exclude={"input": {"uri"}})
        key = hashlib.sha256("/".join([asked, digest, self._fingerprint or ""]).encode()).hexdigest()
        return f"lm-eval-{spec.task}-{key[:16]}"
