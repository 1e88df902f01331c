"""One evaluation by lm-evaluation-harness, from the names of tasks to its results and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import JobsError, UsageError
from jobs.evaluation.harness.batches import Batches, Follow
from jobs.models.encoding import load_encoder
from jobs.models.pinning import pin_model
from jobs.text import did_you_mean
from schemas.pools import Placement
from schemas.sampling import UNSAID
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.client import BatchClient

EXTRA = "nightbatch[eval]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What to evaluate. Names and meanings are those of `lm_eval.simple_evaluate`.

    Attributes:
        tasks: names of tasks, groups and tags.
        include_path: directory with further tasks.
        limit: documents per task; below 1 a share of them.
        output_path: directory to which the harness writes results and samples, in its own layout.
    """

    tasks: Sequence[str]
    include_path: Path | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    gen_kwargs: str | None = None
    output_path: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """What the harness found.

    Attributes:
        results: its own document, without the samples.
        tables: its own tables, of tasks and of groups.
        job_ids: the jobs that computed it.
        notes: remarks about requests whose numbers are not what they seem.
    """

    results: Mapping[str, Any]
    tables: Sequence[str]
    job_ids: Sequence[str]
    notes: Sequence[str]


def evaluate(
    client: BatchClient,
    spec: JobSpec,
    wanted: Wanted,
    follow: Follow,
    *,
    evaluation_id: str | None = None,
    placement: Placement | None = None,
) -> Evaluated:
    """Evaluate a model: at most three jobs, one for each kind of request.

    Args:
        spec: model, engine, replicas and reuse of the jobs; the rest comes from the tasks.
        follow: waits for a job.
        evaluation_id: beginning of the jobs' ids; default: made of what is evaluated.
        placement: the pool that they compute in; None: engines of their own.

    Raises:
        UsageError: the harness is not installed, or a task is unknown or asks for what cannot be done.
        JobsError: the harness fails, or a job has not succeeded.
    """
    if spec.sampling not in UNSAID:
        raise UsageError("The tasks have sampling values of their own.", "Leave [sampling] out, or use --gen-kwargs.")
    harness = _imported()
    encoder = load_encoder(spec.model.path)
    spec = spec.evolve(input=spec.input.evolve(chat=False))
    model = harness.BatchModel(
        batches := Batches(
            client,
            spec,
            follow,
            fingerprint=pin_model(spec),
            evaluation_id=evaluation_id,
            placement=placement,
        ),
        encoder,
        spec.model.path,
        min(spec.engine.max_model_len or encoder.max_model_len, encoder.max_model_len),
    )
    manager = _within(lambda: harness.TaskManager(include_path=wanted.include_path and str(wanted.include_path)))
    check_tasks(wanted.tasks, manager)
    whole = None if wanted.limit is None or wanted.limit < 1 else int(wanted.limit)
    tracker = harness.EvaluationTracker(output_path=str(wanted.output_path)) if wanted.output_path else None
    found = _within(
        lambda: harness.simple_evaluate(
            model=model,
            tasks=list(wanted.tasks),
            task_manager=manager,
            num_fewshot=wanted.num_fewshot,
            limit=whole or wanted.limit,
            apply_chat_template=wanted.apply_chat_template,
            system_instruction=wanted.system_instruction,
            gen_kwargs=wanted.gen_kwargs,
            evaluation_tracker=tracker,
        )
    )
    samples = found.pop("samples", {})
    if tracker is not None:
        tracker.save_results_aggregated(results=found, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
    tables = [harness.make_table(found, column) for column in ("results", "groups") if found.get(column)]
    return Evaluated(results=found, tables=tables, job_ids=batches.job_ids, notes=model.notes)


def check_tasks(names: Sequence[str], manager: Any) -> None:
    """Check that the harness knows the tasks.

    Raises:
        UsageError: no task, or an unknown one.
    """
    if not names:
        raise UsageError("No task is given.", "Name some: jobs lm-eval arc_easy,hellaswag --model DIR")
    known = manager.match_tasks(list(names))
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        near = did_you_mean(unknown[0], manager.all_tasks)
        raise UsageError(
            f"lm-evaluation-harness has no task {unknown[0]!r}{f'; {near}' if near else '.'}",
            "List its tasks with: lm_eval ls tasks. --include-path names a directory with tasks of your own.",
        )
    assert known, "each name matches a task"


def _imported() -> Any:
    """Import the harness, which takes seconds; return what is used of it."""
    try:
        from jobs.evaluation.harness import imported
    except ImportError as error:
        raise UsageError(
            f"lm-evaluation-harness cannot be imported: {error}.", f"Install it: pip install '{EXTRA}'"
        ) from error
    return imported


def _within(work: Callable[[], Any]) -> Any:
    """Do the harness' work; its errors become ours.

    Raises:
        JobsError: it has failed.
    """
    try:
        return work()
    except JobsError:
        raise
    except Exception as error:
        raise JobsError(
            f"lm-evaluation-harness failed: {type(error).__name__}: {error}",
            "Jobs that have ended are found again by the same command. --debug shows where it failed.",
        ) from error
