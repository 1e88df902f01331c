"""The spec of a job that repairs another: that job's own, with a few values changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.results.read import open_results
from jobs.spec.build import changed_spec
from schemas.exports import ExportSpec
from schemas.limits import Limits
from schemas.records import Succeeded
from schemas.spec import JobSpec, Retry

ERRORS = ("status=error",)
"""Conditions of the rows that are computed unless others are given."""

_FIXED = ("task", "input", "model", "output_tokens", "token_logprobs", "output_completions", "output_logprobs")
"""Fields that both jobs have in common: rows of both are in one dataset, with the same columns."""


class Repair(NamedTuple):
    """The spec of a job that repairs another.

    Attributes:
        num_chosen: rows that its conditions choose; `num_missing`: rows without a result, which it computes too.
        num_rows: rows of the dataset.
        futile: why the chosen rows are likely to come out as before; "" if something is changed for them.
    """

    spec: JobSpec
    num_chosen: int
    num_missing: int
    num_rows: int
    futile: str


def repair_of(
    ledger: Ledger,
    where: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
    label: Callable[[str], str] = lambda field: f"`{field}`",
    gpu_hour_price: float | None = None,
) -> Repair:
    """Build the spec of a job that computes the chosen rows of a job that has ended, and copies all others.

    Args:
        where: conditions on its results; default: its error rows.
        fields: values to change, by dotted field of the spec.
        gpu_hour_price: as the settings have it, for a limit on the cost.

    Raises:
        UsageError: the job has not ended or has no results, no row is chosen, or a value cannot be changed.
        StoreError: the store cannot be reached, or a shard of the results is damaged.
    """
    fields, job_id = fields or {}, ledger.job_id
    spec, terminal, plan = ledger.spec(), ledger.terminal(), ledger.plan()
    if terminal is None:
        raise UsageError(
            f"Job {job_id} has not ended; only its end tells which rows are left to repair.",
            f"Wait for it: jobs wait {job_id}; or end it: jobs cancel {job_id}",
        )
    if plan is None:
        raise UsageError(f"Job {job_id} has no results that could be kept.", "Submit its dataset again: jobs submit …")
    if fixed := next((name for name in fields if name.split(".")[0] in _FIXED), None):
        raise UsageError(
            f"{label(fixed)} cannot be changed: the other rows keep their results.",
            f"Submit the dataset as a new job, with --reuse {job_id}.",
        )
    conditions = tuple(where) or ERRORS
    results = open_results(ledger)
    num_chosen = sum(len(table) for table in results.tables(columns=["row_id"], where=conditions))
    num_missing = 0 if isinstance(terminal, Succeeded) else plan.num_rows - results.num_rows
    if not num_chosen and not num_missing:
        raise UsageError(
            f"No row of job {job_id} meets {' and '.join(conditions)}.",
            f"See its rows: jobs results {job_id} --where …; its error rows are chosen by default.",
        )
    ancestors = (*(spec.retry.ancestors if spec.retry else ()), job_id)
    repaired = changed_spec(
        # What was exported is exported: rows of a table would come twice. Limits were those of the other job's time.
        spec.evolve(reuse=(), export=ExportSpec(), limits=Limits(), retry=Retry(ancestors=ancestors, where=conditions)),
        fields,
        label,
        gpu_hour_price,
    )
    return Repair(repaired, num_chosen, num_missing, plan.num_rows, _futile(spec, repaired, conditions))


def _futile(before: JobSpec, after: JobSpec, conditions: Sequence[str]) -> str:
    if tuple(conditions) == ERRORS or not after.sampling.deterministic:
        return ""
    same = (before.sampling, before.engine.max_model_len, before.retry_invalid)
    if same != (after.sampling, after.engine.max_model_len, after.retry_invalid):
        return ""
    return "Nothing is changed for these rows, and greedy answers come out the same: give --max-tokens, say."
