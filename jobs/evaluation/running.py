"""Running an evaluation: jobs are submitted, programs are run, rows are judged. Each step may be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.errors import Damaged, JobsError, UsageError
from jobs.evaluation.judging import COLUMNS, judge, scores_of
from jobs.evaluation.preparing import Prepared
from jobs.evaluation.record import Record
from jobs.evaluation.rendering import KEPT, KEPT_OF_PROGRAMS
from jobs.evaluation.suites import Suite
from jobs.frames import as_parquet
from schemas.evaluations import Evaluation, Scores, Task
from schemas.pools import Placement
from schemas.sampling import UNSAID, Sampling
from schemas.spec import AUTO, InputSpec, JobSpec

if TYPE_CHECKING:
    from jobs.client import BatchClient, Job

TASKS: tuple[Task, ...] = ("score", "generate")


class EvaluationRun:
    """One evaluation: what it measures, its record and its jobs.

    Args:
        spec: model, engine, replicas and reuse of both jobs; the rest comes from the suite.
        placement: the pool that both compute in; None: engines of their own.
    """

    def __init__(
        self,
        client: BatchClient,
        evaluation_id: str,
        suite: Suite,
        prepared: Prepared,
        spec: JobSpec,
        *,
        limit: int | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.client, self.suite, self.prepared = client, suite, prepared
        self.record = Record(client.store, evaluation_id)
        self._spec, self._placement = spec, placement
        self.evaluation = Evaluation(
            evaluation_id=evaluation_id,
            suite=suite.name,
            suite_hash=suite.hash,
            benchmarks=tuple(prepared.benchmarks),
            limit=limit,
            model=spec.model.path,
            jobs={task: f"{evaluation_id}-{task}" for task in prepared.tables},
            created_at=datetime.now(UTC),
        )

    def stored(self) -> Scores | None:
        """Return the table of an evaluation that has ended, None if there is more to do.

        Raises:
            Conflict: the id is taken by another evaluation.
        """
        scores = self.record.scores()
        if scores is not None:
            self.record.create(self.evaluation)
        return scores

    def submit(self) -> dict[Task, Job]:
        """Write what is measured and submit the jobs; jobs that exist are attached to, and resumed if interrupted.

        Both are submitted at once: whichever has replicas works, so no GPU waits while there are rows.

        Raises:
            Conflict: the id is taken by another evaluation.
            UsageError, StoreError, ClusterError: as `BatchClient.submit_spec`.
        """
        self.record.create(self.evaluation)
        jobs = {}
        for task, table in self.prepared.tables.items():
            with as_parquet(table) as frame:
                spec = self._job_spec(task, str(frame.folder))
                jobs[task], _ = self.client.submit_spec(
                    spec, self.evaluation.jobs[task], placement=self._placement, frame=frame
                )
        return jobs

    def _job_spec(self, task: Task, uri: str) -> JobSpec:
        chat = "messages" in self.prepared.tables[task].schema.names
        keep = (*KEPT, *(KEPT_OF_PROGRAMS if task == "generate" else ()))
        return self._spec.evolve(
            sampling=Sampling(),
            name=f"{self.suite.name} {task}",
            task=task,
            input=InputSpec(uri=uri, chat=chat, keep=keep),
            reuse=self._reused(task),
        )

    def _reused(self, task: Task) -> tuple[str, ...]:
        """Return the jobs whose results are taken over: an evaluation's id stands for its job of this task."""
        found = []
        for reference in self._spec.reuse:
            if reference == AUTO:
                return (AUTO,)
            earlier = Record(self.client.store, reference).evaluation()
            if earlier is None:
                raise UsageError(
                    f"There is no evaluation {reference} to take results from.",
                    "Give the id of an earlier evaluation, or --reuse auto.",
                )
            found += [earlier.jobs[task]] if task in earlier.jobs else []
        return tuple(found)

    def has_programs(self) -> bool:
        """Whether some rows are answered by programs, which are run."""
        table = self.prepared.tables.get("generate")
        return table is not None and table["after"].null_count < table.num_rows

    def finish(self, jobs: Mapping[Task, Job]) -> Scores:
        """Judge the results of jobs that have ended, and write the table.

        Raises:
            JobsError: a job has not succeeded, or programs have not run.
        """
        programs = self._programs() if self.has_programs() else []
        passed = {row["row_id"]: row["outcome"] == "passed" for row in programs}
        verdicts = pa.concat_tables([self._judged(task, job, passed) for task, job in jobs.items()])
        fingerprints = {job.ledger.spec().model.fingerprint for job in jobs.values()}
        scores = Scores(
            evaluation_id=self.evaluation.evaluation_id,
            suite=self.suite.name,
            suite_hash=self.suite.hash,
            model=self.evaluation.model,
            model_fingerprint=next(iter(fingerprints)) if len(fingerprints) == 1 else None,
            benchmarks=scores_of(self.suite, verdicts),
            sandboxed=all(row["sandboxed"] for row in programs) if programs else None,
            finished_at=datetime.now(UTC),
        )
        return self.record.finish(scores, verdicts)

    def _judged(self, task: Task, job: Job, passed: Mapping[int, bool]) -> pa.Table:
        results = job.results()
        if not results.complete or results.num_rows != self.prepared.tables[task].num_rows:
            raise JobsError(f"Job {job.id} has no result for some rows.", f"See: jobs status {job.id}")
        return judge(self.suite, task, results.tables(columns=COLUMNS[task]), passed)

    def _programs(self) -> list[dict[str, Any]]:
        programs = self.record.programs()
        if programs is None:
            raise Damaged(f"{self.record.uri}/programs.parquet is gone.", "Give the evaluation another --id.")
        return list(programs.to_pylist())


def check_spec(spec: JobSpec) -> None:
    """Refuse what a suite fixes itself.

    Raises:
        UsageError: the spec has sampling values.
    """
    if spec.sampling not in UNSAID:
        raise UsageError("A suite has its own sampling values; its hash covers them.", "Leave [sampling] out.")


def warnings_of(scores: Scores) -> Sequence[str]:
    """Return what a person should know before comparing the table with the card's."""
    found = []
    for each in scores.benchmarks:
        if not each.is_whole:
            found.append(f"{each.title}: {each.rows:,} rows; the card's value is that of {each.card_rows:,}.")
        if each.errors:
            found.append(f"{each.title}: {each.errors:,} rows are error rows and count as wrong.")
    if scores.sandboxed is False:
        found.append("Programs that the model wrote ran without a sandbox.")
    return found
