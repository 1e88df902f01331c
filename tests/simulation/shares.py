"""Who gets which share of a pool, over every window of a history in which several jobs have rows that wait.

Tokens count when they are computed: a row's input as it enters, its answer evenly until it is there. A window lies
within a span in which the same jobs have rows that have not entered, and no row is inside that entered before it. It is
judged if the pool computes at least `WINDOW` times the tokens that it holds. Shares may be off
by a tenth, or by one row: the engines here hold five rows each, so that a row can be more than a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.models.encoding import BYTES_MODEL
from schemas.pools import FLOOR, PRIORITIES, Placement, PoolRange, Priority
from schemas.sampling import Sampling, StructuredOutputs
from schemas.spec import InputSpec, JobSpec, ModelSpec, ReplicaRange, ShardBudget
from tests.simulation.histories import Case
from tests.simulation.pool_cluster import POOL
from tests.simulation.pools import ENGINE, PoolHistory
from tests.simulation.seams import CANARY
from tests.simulation.world import Faults, Stay

WINDOW, TOLERANCE = 20, 0.10
STEP_S = 0.5

ANSWERS = tuple("answer" * number for number in range(1, 9))
"""Of several lengths, so that places in the engine do not all become free at once."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Time in which the same jobs have rows that wait.

    Attributes:
        computed: by job, tokens computed until each step.
        held: most tokens of rows inside at once.
        largest: most tokens of one row.
    """

    jobs: tuple[str, ...]
    computed: Mapping[str, Floats]
    held: float
    largest: float

    @property
    def windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last step of each window that is judged."""
        whole = np.sum([self.computed[job] for job in self.jobs], axis=0)
        first, last = np.nonzero(whole[None, :] - whole[:, None] >= WINDOW * self.held)
        return first, last


def long_cases(folder: Path) -> list[Case]:
    """Build jobs whose rows wait for long: short ones, long ones, and rows of all lengths."""
    found = []
    for name, rows, per_shard, lengths in (
        ("short", 240, 8, (1, 20)),
        ("long", 150, 5, (100, 140)),
        ("mixed", 180, 12, (1, 250)),
    ):
        random = Random(name)
        prompts = [
            f"{CANARY} {name} {number} ".ljust(32, "x") + "x" * random.randint(*lengths) for number in range(rows)
        ]
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": prompts}), path)
        spec = JobSpec(
            name=name,
            input=InputSpec(uri=str(path), chat=False),
            model=ModelSpec(path=BYTES_MODEL),
            engine=ENGINE,
            replicas=ReplicaRange(min=1, max=2),
            shards=ShardBudget(min_tokens=1, max_rows=per_shard),
            sampling=Sampling(structured_outputs=StructuredOutputs(choice=ANSWERS)),
            max_error_rate=1.0,
        )
        found.append(Case(spec=spec, rows=rows))
    return found


def draw_shares(seed: int, cases: int) -> PoolHistory:
    """Draw the history of a seed: jobs of several classes and weights over one or two replicas, and no fault."""
    random = Random(f"shares/{seed}")
    classes: Sequence[Priority] = random.choice((("normal",), ("normal",), PRIORITIES))
    number = random.choice((1, 1, 2))
    return PoolHistory(
        seed=seed,
        jobs=tuple(
            (
                random.randrange(cases),
                random.choice((0.0, random.uniform(0, 10))),
                Placement(pool=POOL, priority=random.choice(classes), weight=random.choice((1.0, 2.0, 3.0))),
            )
            for _ in range(random.choice((2, 3)))
        ),
        replicas=PoolRange(min=number, max=number),
        faults=Faults(latency_s=random.choice((0.01, 0.1))),
    )


def unfair(stays: Sequence[Stay], jobs: Mapping[str, tuple[int, Placement]]) -> tuple[list[str], int]:
    """Check the shares of a history.

    Args:
        stays: all rows that have entered, in order.
        jobs: number of rows and claim of each job.

    Returns:
        What is not as promised, and the number of windows that were judged.
    """
    wrong: dict[str, None] = {}
    judged = 0
    for span in _spans(stays, {job: rows for job, (rows, _) in jobs.items()}):
        first, last = span.windows
        judged += len(first)
        if not len(first):
            continue
        got = {job: span.computed[job][last] - span.computed[job][first] for job in span.jobs}
        of_class: dict[Priority, list[str]] = {}
        for job in span.jobs:
            of_class.setdefault(jobs[job][1].priority, []).append(job)
        whole = np.sum(list(got.values()), axis=0)
        for priority, members in of_class.items():
            have = np.sum([got[job] for job in members], axis=0)
            lower = priority != min(of_class, key=PRIORITIES.index)
            due = FLOOR if lower else 1 - FLOOR * (len(of_class) - 1)
            # A row is the least that anybody can get: at each end of a window one of another class may be missing.
            room = np.maximum(TOLERANCE * due * whole, 2 * span.largest if len(of_class) > 1 else 1e-6)
            if (off := np.abs(have - due * whole) - room).max() > 0:
                at = int(off.argmax())
                wrong[f"shares: class {priority} gets {have[at] / whole[at]:.3f} of the tokens, not {due:.2f}"] = None
            weights = sum(jobs[job][1].weight for job in members)
            for job in members:
                due = jobs[job][1].weight / weights
                off = np.abs(got[job] - due * have) - np.maximum(TOLERANCE * due * have, span.largest)
                off = np.where(have >= WINDOW * span.held, off, 0.0)
                if off.max() > 0:
                    at = int(off.argmax())
                    wrong[f"shares: {job} gets {got[job][at] / have[at]:.3f} of its class, not {due:.3f}"] = None
    return list(wrong), judged


def _spans(stays: Sequence[Stay], rows: Mapping[str, int]) -> Iterator[Span]:
    """Yield the spans in which the same jobs, two or more, have rows that wait."""
    of_job = {job: [stay for stay in stays if stay.job_id == job][:count] for job, count in rows.items()}
    # From the first row at a door: a job that starves has none that enters.
    waits = {job: (found[0].waited_from_s, found[-1].entered_s) for job, found in of_job.items() if found}
    borders = sorted({moment for span in waits.values() for moment in span})
    for begin, end in pairwise(borders):
        jobs = tuple(job for job, (first, last) in waits.items() if first <= begin and last >= end)
        if len(jobs) < 2:
            continue
        inside = [stay for stay in stays if stay.entered_s < end and _left(stay) > begin]
        settled = max((_left(stay) for stay in inside if stay.entered_s < begin), default=begin)
        times = np.arange(settled, end, STEP_S)
        if len(times) < 2 or not inside:
            continue
        computed = {job: sum(_computed(stay, times) for stay in inside if stay.job_id == job) for job in jobs}
        held = sum(np.where((stay.entered_s <= times) & (times < _left(stay)), _whole(stay), 0.0) for stay in inside)
        largest = max(map(_whole, inside))
        yield Span(jobs=jobs, computed=computed, held=float(np.max(held)), largest=largest)  # type: ignore[arg-type]


def _computed(stay: Stay, times: Floats) -> Floats:
    """Return how many tokens of a row were computed until each of these times."""
    took = max(1e-9, _left(stay) - stay.entered_s)
    part = np.clip((times - stay.entered_s) / took, 0.0, 1.0)
    return np.where(times >= stay.entered_s, stay.tokens + stay.generated_tokens * part, 0.0)


def _whole(stay: Stay) -> float:
    return float(stay.tokens + stay.generated_tokens)


def _left(stay: Stay) -> float:
    return stay.left_s if stay.left_s is not None else np.inf
