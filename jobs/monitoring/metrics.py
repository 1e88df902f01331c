"""Prometheus' form of the facts. Moments are seconds since the epoch: a query computes the age, `time() - moment`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import get_args

from prometheus_client.core import GaugeMetricFamily

from jobs.monitoring.batches import BatchFacts
from jobs.monitoring.open_jobs import JobFacts
from jobs.monitoring.schedules import ScheduleFacts
from schemas.codes import ENDED, State
from schemas.schedules import End

_EPOCH = datetime.fromtimestamp(0, UTC)
OPEN_STATES = tuple(state for state in State if state not in ENDED)


def of_schedules(schedules: Sequence[ScheduleFacts], gpu_hour_price: float | None) -> Iterator[GaugeMetricFamily]:
    """Yield the metrics of schedules. A value that is not known has no series.

    Args:
        gpu_hour_price: price of one GPU for one hour; None: costs are not known.
    """

    def gauge(name: str, text: str, values: Iterable[tuple[str, float | None]]) -> GaugeMetricFamily:
        return _gauge(f"nightbatch_schedule_{name}", text, ["schedule"], (([key], value) for key, value in values))

    def moments(name: str, text: str, values: Iterable[tuple[str, datetime | None]]) -> GaugeMetricFamily:
        return gauge(f"{name}_timestamp_seconds", text, ((key, _seconds(value)) for key, value in values))

    ended = [(each.name, each.last) for each in schedules if each.last is not None]
    gpu_s = {name: last.gpu_s for name, last in ended if last.gpu_s is not None}
    yield gauge("suspended", "1 while the schedule is suspended.", ((s.name, s.suspended) for s in schedules))
    yield gauge("open_runs", "Runs that have begun and not ended.", ((s.name, s.open_runs) for s in schedules))
    yield gauge(
        "due_since_success",
        "Due times since the last success.",
        ((s.name, s.due_since_success) for s in schedules),
    )
    yield moments("due", "The newest time at which a run was due.", ((s.name, s.due_at) for s in schedules))
    yield moments("next_due", "The next time at which a run is due.", ((s.name, s.next_due_at) for s in schedules))
    yield moments(
        "begun_due",
        "The due time of the newest run that has begun; 0 before the first.",
        ((s.name, s.begun_due_at or _EPOCH) for s in schedules),
    )
    yield moments("last_success", "When results were last published.", ((s.name, s.last_success_at) for s in schedules))
    yield moments(
        "deadline",
        "When the first run that has not ended counts as late.",
        ((s.name, s.deadline_at) for s in schedules),
    )
    yield moments("last_run_end", "The end of the newest run that has ended.", ((n, run.ended_at) for n, run in ended))
    yield _gauge(
        "nightbatch_schedule_last_run_outcome",
        "1 for how the newest run that has ended did so, 0 for the other outcomes.",
        ["schedule", "outcome"],
        (([name, kind], run.outcome == kind) for name, run in ended for kind in get_args(End)),
    )
    yield gauge("last_run_seconds", "From opening to end of that run.", ((n, run.duration_s) for n, run in ended))
    yield gauge("last_run_rows", "Rows of that run's job.", ((n, run.num_rows) for n, run in ended))
    yield gauge("last_run_error_rows", "Error rows of that run's job.", ((n, run.num_error_rows) for n, run in ended))
    yield gauge("last_run_gpu_seconds", "GPU time that replicas of that run's job have held.", gpu_s.items())
    if gpu_hour_price is not None:
        costs = ((name, seconds / 3600 * gpu_hour_price) for name, seconds in gpu_s.items())
        yield gauge("last_run_cost", "Cost of that GPU time, in the currency of gpu_hour_price.", costs)


def of_jobs(facts: JobFacts) -> Iterator[GaugeMetricFamily]:
    """Yield the metrics of jobs: counts of all, and series of their own for those that have not ended."""

    def gauge(name: str, text: str, values: Iterable[tuple[str, float | None]]) -> GaugeMetricFamily:
        return _gauge(f"nightbatch_open_job_{name}", text, ["job_id"], (([key], value) for key, value in values))

    yield _gauge("nightbatch_jobs", "Jobs by state.", ["state"], (([each], n) for each, n in facts.states.items()))
    yield _gauge(
        "nightbatch_open_job_state",
        "1 for the state of a job that has not ended, 0 for the other states.",
        ["job_id", "schedule", "state"],
        (([job.job_id, job.schedule, each], job.state is each) for job in facts.open for each in OPEN_STATES),
    )
    yield gauge("rows_done", "Rows with a result that is kept.", ((job.job_id, job.rows_done) for job in facts.open))
    yield gauge("rows_left", "Rows without one, once planned.", ((job.job_id, job.rows_left) for job in facts.open))
    yield gauge("gpu_seconds", "GPU time held so far.", ((job.job_id, job.gpu_s) for job in facts.open))
    yield gauge(
        "created_timestamp_seconds", "When it was submitted.", ((j.job_id, _seconds(j.created_at)) for j in facts.open)
    )
    yield gauge(
        "reported_timestamp_seconds",
        "When its driver last reported, or its submission.",
        ((job.job_id, _seconds(job.reported_at)) for job in facts.open),
    )


def of_batches(facts: BatchFacts) -> Iterator[GaugeMetricFamily]:
    """Yield the metrics of batches."""
    yield _gauge(
        "nightbatch_batches", "Batches by OpenAI's status.", ["status"], (([k], n) for k, n in facts.statuses.items())
    )
    yield _gauge(
        "nightbatch_oldest_open_batch_timestamp_seconds",
        "Creation of the oldest batch that has not ended.",
        [],
        [([], facts.oldest_open_at)],
    )


def of_reading(
    read_at: dict[str, float], took_s: dict[str, float], unreadable: dict[str, int]
) -> Iterator[GaugeMetricFamily]:
    """Yield how old the facts are, by kind: schedules, jobs, batches."""

    def gauge(name: str, text: str, values: dict[str, float] | dict[str, int]) -> GaugeMetricFamily:
        return _gauge(f"nightbatch_facts_{name}", text, ["kind"], (([key], value) for key, value in values.items()))

    yield gauge("timestamp_seconds", "When these facts were last read from the store.", read_at)
    yield gauge("read_seconds", "How long that took.", took_s)
    yield gauge("unreadable", "Documents left out: damaged, or of a newer version.", unreadable)


def of_scheduler(ticked_at: float | None) -> Iterator[GaugeMetricFamily]:
    """Yield the last time at which this process, if it is a scheduler, had looked at every schedule."""
    yield _gauge(
        "nightbatch_scheduler_tick_timestamp_seconds",
        "When the scheduler last had looked at every schedule.",
        [],
        [([], ticked_at)],
    )


def _gauge(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(list(map(str, key)), float(value))
    return family


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
