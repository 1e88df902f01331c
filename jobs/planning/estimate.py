"""The dry run, which estimates a job before a GPU starts. It reads and tokenises locally and starts nothing."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.dataset import Dataset, count_rows, inspect, portions, read_portion, resolve_columns, shown_columns
from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.models.pinning import pin_model
from jobs.planning.comparable import Work, expected_rate, output_share
from jobs.planning.facts import RowFacts, facts_of, light_columns
from jobs.planning.matching import Wanted
from jobs.planning.reuse import Warn, open_sources, source_jobs
from jobs.planning.shards import count_shards, shared_tokens, split
from jobs.rows.prepare import RowPreparer
from schemas.records import TableFormat
from schemas.spec import TRUNCATED, JobSpec, ShardBudget
from schemas.throughput import Throughput

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A job in numbers.

    Attributes:
        rows: rows that the job runs: those of the dataset, or as many as the spec's limit says.
        measured_rows: rows that were tokenised; all other numbers are scaled up from them.
        output_tokens: upper bound: every row generates as many tokens as it may.
        output_share: share of these assumed to be generated; None if unknown, in which case all are.
        shared_input_tokens: input tokens found in the KV cache because an earlier row has the same prefix.
        invalid_rows: rows that will be error rows, by code.
        reused_rows: rows that reuse the result of an earlier job.
        repeated_rows: of the others, rows equal to an earlier one, which cost nothing.
        tokens_per_s: computed tokens per second of one replica, observed or given; None if neither, and then so
            is everything that follows from it.
        start_s: seconds from the job's start until rows are computed, as observed.
        observed_on: the hardware that `tokens_per_s` was observed on, in `observed_in`; None if it was given.
        observed_in: the earlier jobs that it comes from.
        comparable: whether their work was like this job's; otherwise they are the nearest, and the range of the time
            is wide.
        columns: types of the dataset's columns, in words, as all files together have them.
        tables: Delta and Iceberg tables among the inputs: address, format, version, and the version after which rows
            must have been appended; None for all rows.
        left_out: what lies beside the dataset's files and is not read; None if nothing.
        truncated_rows: rows whose text will be cut to fit.
        unmatched_rows: rows of the dataset that the spec's conditions leave out.
        gpu_hours, eta_s, cost: with all replicas; upper bounds where `output_share` is unknown.
        eta_low_s, eta_high_s: range of the time as rates of earlier jobs vary; None if the rate was given.
    """

    rows: int
    dataset_rows: int
    measured_rows: int
    shards: int
    input_tokens: int
    max_input_tokens: int
    output_tokens: int
    shared_input_tokens: int
    invalid_rows: dict[str, int]
    reused_rows: int
    repeated_rows: int
    output_share: float | None
    tokens_per_s: float | None
    start_s: float | None
    observed_on: str | None
    observed_in: tuple[str, ...]
    comparable: bool
    gpu_hours: float | None
    eta_s: float | None
    eta_low_s: float | None
    eta_high_s: float | None
    cost: float | None
    columns: dict[str, str] = field(default_factory=dict)
    tables: tuple[tuple[str, TableFormat, str, str | None], ...] = ()
    left_out: str | None = None
    truncated_rows: int = 0
    unmatched_rows: int = 0

    @property
    def exact(self) -> bool:
        """True if every row was measured."""
        return self.measured_rows == self.rows


def estimate(
    spec: JobSpec,
    *,
    sample_rows: int = 20_000,
    tokens_per_s: float | None = None,
    observed: Throughput | None = None,
    gpu_hour_price: float | None = None,
    ledger: Ledger | None = None,
    warn: Warn = log.warning,
) -> Estimate:
    """Measure up to `sample_rows` rows, spread over the dataset, and scale up.

    Args:
        tokens_per_s: computed tokens per second of one replica; takes precedence over `observed`.
        observed: speed of earlier jobs. Without either, time and cost stay unknown.
        gpu_hour_price: price of one GPU for one hour, in any currency.
        ledger: ledger of a job under the root that `spec.reuse` looks at; needed to count reused rows.
        warn: called with a message for what is not reused because it is damaged.

    Raises:
        InvalidInput, InvalidModel: the job could not be submitted either.
    """
    reused = None
    if ledger is not None and spec.reuse:
        spec = spec.evolve(model=spec.model.evolve(fingerprint=pin_model(spec)))
        reused = open_sources(ledger, source_jobs(ledger, spec, spec.model.fingerprint, warn), warn)
    dataset = inspect(spec.input)
    encoder = load_encoder(spec.model.path)
    max_model_len = min(spec.engine.max_model_len or encoder.max_model_len, encoder.max_model_len)
    columns = resolve_columns(dataset.schema, spec.input, choices=spec.task == "score")
    preparer = RowPreparer(spec, columns, encoder, max_model_len)
    num_rows = count_rows(dataset, spec.input)
    samples = list(_sample(dataset, spec, preparer, sample_rows))
    light = pa.concat_tables([rows for rows, _ in samples])
    measured = facts_of(light)
    scale = num_rows / len(light)
    facts, found = measured, None
    if reused is not None:
        ordered = light.sort_by("row_id")
        found = reused.find(Wanted.of(ordered, spec))
        facts = facts_of(ordered.filter(pa.array(found < 0)))
    output_tokens = round(scale * int(facts.num_output_tokens[~facts.repeated].sum()))
    shared = scale * shared_tokens(facts)
    work_tokens = scale * int(facts.work_tokens.sum()) - shared
    work = Work.of(
        spec,
        num_rows=scale * int((facts.work_tokens > 0).sum()),
        input_tokens=work_tokens - output_tokens,
        output_tokens=output_tokens,
    )
    share = None if observed is None else output_share(observed.observations, work)
    work_tokens -= 0.0 if share is None else (1 - share) * output_tokens
    rate = expected_rate(observed.observations, work) if observed and tokens_per_s is None else None
    start_s = observed.start_s if observed else None
    times = predict_times(work_tokens, rate.tokens_per_s if rate else tokens_per_s, start_s, spec)
    codes = Counter(code for code in light["error_code"].to_pylist() if code is not None)
    return Estimate(
        rows=num_rows,
        dataset_rows=dataset.num_rows,
        measured_rows=len(light),
        shards=_count_shards(measured, found, spec.shards, scale),
        input_tokens=round(scale * int(measured.num_input_tokens.sum())),
        max_input_tokens=int(measured.num_input_tokens.max()),
        output_tokens=output_tokens,
        shared_input_tokens=round(shared),
        invalid_rows={code: round(scale * count) for code, count in sorted(codes.items())},
        reused_rows=round(scale * (len(measured) - len(facts))),
        repeated_rows=round(scale * int(facts.repeated.sum())),
        truncated_rows=round(scale * sum(cut for _, cut in samples)),
        unmatched_rows=dataset.num_rows - dataset.num_chosen_rows,
        output_share=share,
        tokens_per_s=rate.tokens_per_s if rate else tokens_per_s,
        start_s=start_s,
        observed_on=observed.hardware if observed and rate else None,
        observed_in=rate.jobs if rate else (),
        comparable=rate is not None and rate.comparable,
        gpu_hours=times and times.gpu_hours,
        eta_s=times and times.eta_s,
        eta_low_s=None if rate is None else _eta_s(work_tokens, rate.high, start_s, spec),
        eta_high_s=None if rate is None else _eta_s(work_tokens, rate.low, start_s, spec),
        cost=None if times is None or gpu_hour_price is None else times.gpu_hours * gpu_hour_price,
        columns={column.name: column.type for column in shown_columns(dataset.schema)},
        tables=tuple((table.uri, table.format, table.version, table.since) for table in dataset.tables),
        left_out=dataset.left_out.sentence(),
    )


class Times(NamedTuple):
    """Time that a job takes."""

    eta_s: float
    gpu_hours: float


def predict_times(work_tokens: float, tokens_per_s: float | None, start_s: float | None, spec: JobSpec) -> Times | None:
    """Predict the time of a job that has all of its replicas from the start; None if no throughput is known.

    Args:
        work_tokens: input tokens to compute, plus generated ones.
        tokens_per_s: computed tokens per second of one replica.
        start_s: seconds until rows are computed, in which replicas hold their GPUs, too. None: unknown, not counted.
    """
    if tokens_per_s is None:
        return None
    replicas = spec.replicas.max
    eta_s = (start_s or 0.0) + work_tokens / tokens_per_s / replicas
    return Times(eta_s=eta_s, gpu_hours=eta_s * replicas * spec.engine.tensor_parallel_size / 3600)


def _eta_s(work_tokens: float, tokens_per_s: float, start_s: float | None, spec: JobSpec) -> float | None:
    times = predict_times(work_tokens, tokens_per_s, start_s, spec)
    return times and times.eta_s


def _count_shards(measured: RowFacts, found: npt.NDArray[np.int64] | None, budget: ShardBudget, scale: float) -> int:
    """Count the shards of a job with `scale` times these rows. Exact at 1.

    Args:
        found: shape (rows,), the place of each row's result in earlier jobs; -1 for rows to compute.
    """
    if scale == 1:
        return len(split(measured, budget, found).shards)
    copied = np.zeros(len(measured), np.bool_) if found is None else found >= 0
    tokens, held = scale * int(measured.work_tokens[~copied].sum()), scale * measured.bytes_held
    # A shard's size follows from the whole job's tokens, so a cut of the sample would not scale.
    return sum(
        max(least, math.ceil(scale * rows.sum() / budget.max_rows), math.ceil(held[rows].sum() / budget.max_bytes))
        for rows, least in ((~copied, count_shards(int(tokens), budget)), (copied, 0))
    )


def _sample(dataset: Dataset, spec: JobSpec, preparer: RowPreparer, sample_rows: int) -> Iterator[tuple[pa.Table, int]]:
    """Yield light columns of rows, and how many of these rows are cut.

    They are of slices spread evenly over the job's; of all rows if they are few enough.
    """
    work = portions(dataset, spec.input, max_rows=1024)
    step = max(1, -(-count_rows(dataset, spec.input) // sample_rows))
    for portion in work[::step]:
        for batch, row_ids in read_portion(portion, list(preparer.columns.needed)):
            rows = preparer.prepare(batch, row_ids)
            cut = pc.sum(rows[TRUNCATED]).as_py() if TRUNCATED in rows.schema.names else 0
            yield light_columns(rows), cut or 0
