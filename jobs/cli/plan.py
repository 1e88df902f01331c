"""`jobs plan`: the dry run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import Request
from jobs.cli.output import Format, Output
from jobs.errors import Exit
from jobs.text import duration, percent, printable

if TYPE_CHECKING:
    from jobs.planning.estimate import Estimate
    from jobs.planning.fitting import Fit
    from jobs.pools.outlook import Outlook
    from schemas.spec import JobSpec


MOST_COLUMNS = 12
"""Columns of the dataset that are shown with their types."""

MOST_NAMED = 3
"""Earlier jobs that are named as the source of a rate."""


def plan(
    output: Output,
    *,
    request: Request,
    sample: Annotated[
        int, typer.Option("--sample", min=1, help="Tokenise at most this many rows, and extrapolate.")
    ] = 20_000,
    tokens_per_s: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-s",
            min=0.001,
            help="Throughput of a replica. Default: that of earlier jobs.",
            show_default=False,
        ),
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option("--gpu-price", help="Price of one GPU-hour.", show_default=False)
    ] = None,
) -> None:
    """Estimate a job without running it: rows, tokens, errors, GPU-hours and cost.

    Takes the same options as `jobs submit`. Time and cost come from the throughput of earlier jobs with the same model
    and engine under the same root; without such a job they are unknown. Exits with 5 if the job will not fit a limit
    (--finish-within, --finish-by, --max-cost, --max-gpu-hours), and says by how much, and with how many replicas it
    would.

    Example:

      jobs plan reviews.parquet --model /models/internlm2_5-20b-chat --replicas 8 --gpu-price 2.50
    """
    from dataclasses import asdict

    from jobs.job_ids import resolve_jobs
    from jobs.planning.dry_run import dry_run
    from jobs.store import open_store

    store = open_store(request.settings.root, patience_s=5.0)
    spec = resolve_jobs(store, request.spec)
    result, known, limits, outlook = dry_run(
        spec,
        store,
        allowed_buckets=request.settings.allowed_buckets,
        sample_rows=sample,
        tokens_per_s=tokens_per_s,
        gpu_hour_price=gpu_price if gpu_price is not None else request.settings.gpu_hour_price,
        warn=output.warn,
        placement=request.placement,
    )
    if output.format is not Format.TABLE:
        output.record(
            asdict(result)
            | {"exact": result.exact, "limits": [asdict(fit) | {"excess": fit.excess} for fit in limits]}
            | {"pool": None if outlook is None else asdict(outlook)}
        )
        _exit_unless_fitting(limits, output)
        return
    share = result.shared_input_tokens / max(1, result.input_tokens)
    invalid = ", ".join(f"{count:,} {code}" for code, count in result.invalid_rows.items())
    output.record(
        {
            **_tables(result),
            "columns": _columns(result),
            "rows": _rows(result, spec),
            "measured": "every row" if result.exact else f"{result.measured_rows:,} rows, extrapolated",
            "error rows": invalid or "none",
            **({"left out": f"{_rows_of(result.unmatched_rows)}, by --where"} if spec.input.where else {}),
            **({"cut rows": _cut(result, spec)} if spec.input.truncate else {}),
            **({"reused rows": f"{result.reused_rows:,} have a result in an earlier job"} if spec.reuse else {}),
            **({"repeated rows": f"{result.repeated_rows:,} repeat another row"} if result.repeated_rows else {}),
            "shards": f"{result.shards:,}",
            "input tokens": f"{result.input_tokens:,} (longest prompt {result.max_input_tokens:,})",
            "shared prefixes": f"{percent(share)} of the input tokens repeat the prefix of an earlier row",
            "output tokens": _outputs(result),
            "replicas": _replicas(spec),
            **({"pool": _pool(outlook)} if outlook is not None else {}),
            **_times(result),
        }
    )
    if result.left_out is not None:
        output.note(result.left_out)
    if spec.engine.tensor_parallel_size > 1:
        output.note("If one GPU holds the model, use more replicas instead of --tensor-parallel:")
        output.note("on two H200, two replicas were 1.13 to 1.20 times as fast as one over both.")
    if len(known) > 1:
        others = ", ".join(f"{other.tokens_per_s:,.0f} on {other.hardware}" for other in known[1:])
        output.note(
            f"On other hardware, tokens/s per replica: {others}. Set the rate that you expect with --tokens-per-s."
        )
    if result.tokens_per_s is None:
        output.note("No earlier job under this root has used this model and engine: time and cost are unknown.")
        output.note("Run a small job first, or give the rate that you expect with --tokens-per-s.")
    _exit_unless_fitting(limits, output)


def _exit_unless_fitting(limits: Sequence[Fit], output: Output) -> None:
    """Say how the job stands to each of its limits; exit with 5 if it will not fit one."""
    from jobs.planning.fitting import sentence

    for fit in limits:
        said = sentence(fit)
        output.note(said) if fit.fits == "yes" else output.warn(said)
    if any(fit.fits == "no" for fit in limits):
        raise typer.Exit(Exit.WILL_NOT_FIT)


def _tables(result: Estimate) -> dict[str, str]:
    """Name the tables among the inputs, with the versions that the estimate is of."""
    from schemas.records import InputTable

    tables = (InputTable(uri=uri, format=kind, version=at, since=since) for uri, kind, at, since in result.tables)
    return {"tables": ", ".join(table.shown for table in tables)} if result.tables else {}


def _columns(result: Estimate) -> str:
    """Name the columns with their types, as many as a person reads."""
    shown = [printable(f"{name} {type_}") for name, type_ in result.columns.items()]
    more = len(shown) - MOST_COLUMNS
    return ", ".join(shown[:MOST_COLUMNS]) + (f", and {more:,} more (-o json has all)" if more > 0 else "")


def _rows(result: Estimate, spec: JobSpec) -> str:
    if result.rows == result.dataset_rows:
        return f"{result.rows:,}"
    where = " and ".join(map(printable, spec.input.where))
    if where and spec.input.limit is None:
        return f"{result.rows:,} of {result.dataset_rows:,}, where {where}"
    where = where and f", where {where}"
    which = "the first" if spec.input.limit_seed is None else f"drawn with seed {spec.input.limit_seed}"
    return f"{result.rows:,} of {result.dataset_rows:,}, {which}{where}"


def _rows_of(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _cut(result: Estimate, spec: JobSpec) -> str:
    column, part = spec.input.truncated or ("", "")
    return printable(f"{_rows_of(result.truncated_rows)}, without the {part} of {column!r}")


def _replicas(spec: JobSpec) -> str:
    size = spec.engine.tensor_parallel_size
    return f"{spec.replicas.max}, each on {size} GPUs" if size > 1 else f"{spec.replicas.max}"


def _pool(outlook: Outlook) -> str:
    rivals = f"{outlook.jobs:,} other job{'s' if outlook.jobs != 1 else ''} with rows"
    share = f"; while they have some, this one gets {percent(outlook.share)} of the tokens" if outlook.jobs else ""
    ready = f"{outlook.ready:,} replica{'s' if outlook.ready != 1 else ''} ready"
    return f"{outlook.pool}: {ready}, {rivals}{share}"


def _outputs(result: Estimate) -> str:
    if result.output_share is None:
        return f"up to {result.output_tokens:,} (if all rows reach max_tokens)"
    expected = result.output_share * result.output_tokens
    share = f"{percent(result.output_share)} of max_tokens, as in earlier jobs of this name and prompt"
    return f"about {expected:,.0f} ({share})"


def _times(result: Estimate) -> dict[str, str]:
    """Format GPU-hours, time and cost, and the throughput that they are computed from."""
    if result.tokens_per_s is None or result.gpu_hours is None or result.eta_s is None:
        return {"throughput": "unknown", "GPU-hours": "unknown", "time": "unknown"}
    given = f"{result.tokens_per_s:,.0f} tokens/s per replica"
    start = f"{duration(result.start_s)} to start" if result.start_s is not None else "time to start not included"
    about = "up to" if result.output_share is None else "about"
    return {
        "throughput": f"{given}, {start}" + (f" ({_source(result)})" if result.observed_on else ""),
        "GPU-hours": f"{about} {result.gpu_hours:,.2f}",
        "time": f"{about} {duration(result.eta_s)}" + _range(result),
        **({"cost": f"{about} {result.cost:,.2f}"} if result.cost is not None else {}),
    }


def _source(result: Estimate) -> str:
    """Name the earlier jobs that the rate comes from."""
    first, more = ", ".join(result.observed_in[:MOST_NAMED]), len(result.observed_in) - MOST_NAMED
    named = f"{first} and {more} more" if more > 0 else first
    alike = "" if result.comparable else "; their rows were of another length or kind, so the range is wide"
    return f"as in {named} on {result.observed_on}{alike}"


def _range(result: Estimate) -> str:
    if result.eta_low_s is None or result.eta_high_s is None:
        return ""
    return f" ({duration(result.eta_low_s)} to {duration(result.eta_high_s)}, as rates of earlier jobs vary)"
