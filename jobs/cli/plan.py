"""`jobs plan`: the dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import Request, with_spec
from jobs.cli.output import Format, Output, with_output

if TYPE_CHECKING:
    from jobs.planning.estimate import Estimate
    from schemas.spec import JobSpec


MOST_NAMED = 3
"""Earlier jobs that are named as the source of a rate."""


@with_output
@with_spec
def plan(
    output: Output,
    *,
    request: Request,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to tokenise; more are scaled up.")] = 20_000,
    tokens_per_s: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-s", min=0.001, help="Throughput of a replica. Default: as observed.", show_default=False
        ),
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option("--gpu-price", help="Price of a GPU for an hour.", show_default=False)
    ] = None,
) -> None:
    """Tell what a job would be: rows, tokens, errors, GPU-hours and cost. Starts nothing.

    Takes the same options as `jobs submit`. Time and cost follow from how fast earlier jobs with the same model and
    engine under the same root went; where there were none, none are told.

    Example:

      jobs plan reviews.parquet --model /models/internlm2_5-20b-chat --replicas 8 --gpu-price 2.50
    """
    from dataclasses import asdict

    from jobs.buckets import check_bucket
    from jobs.errors import StoreError
    from jobs.ledger import Ledger
    from jobs.planning.estimate import estimate
    from jobs.planning.throughput import find
    from jobs.spec.build import new_job_id
    from jobs.store import open_store

    price = gpu_price if gpu_price is not None else request.settings.gpu_hour_price
    spec = request.spec
    check_bucket(spec.input.uri, request.settings.allowed_buckets)
    store = open_store(request.settings.root, patience_s=5.0)
    try:
        known = find(store, spec)
    except StoreError as error:
        known = []
        output.warn(f"How fast earlier jobs went is not known: {error}")
    result = estimate(
        spec,
        sample_rows=sample,
        tokens_per_s=tokens_per_s,
        observed=known[0] if known else None,
        gpu_hour_price=price,
        ledger=Ledger(store, new_job_id(spec.name)) if spec.reuse else None,
        warn=output.warn,
    )
    if output.format is not Format.TABLE:
        output.record(asdict(result) | {"exact": result.exact})
        return
    share = result.shared_input_tokens / max(1, result.input_tokens)
    invalid = ", ".join(f"{count:,} {code}" for code, count in result.invalid_rows.items())
    output.record(
        {
            "rows": f"{result.rows:,}",
            "measured": "every row" if result.exact else f"{result.measured_rows:,} rows, scaled up",
            "error rows": invalid or "none",
            **({"reused rows": f"{result.reused_rows:,} have their result in an earlier job"} if spec.reuse else {}),
            **({"repeated rows": f"{result.repeated_rows:,} equal another row"} if result.repeated_rows else {}),
            "shards": f"{result.shards:,}",
            "input tokens": f"{result.input_tokens:,} (longest prompt {result.max_input_tokens:,})",
            "shared prefixes": f"{share:.0%} of the input tokens are in an earlier row's prefix",
            "output tokens": _outputs(result),
            "replicas": _replicas(spec),
            **_times(result),
        }
    )
    if spec.engine.tensor_parallel_size > 1:
        output.note("Where one GPU holds the model, leave --tensor-parallel out and take as many more replicas:")
        output.note("on two H200, two replicas were 1.13 to 1.20 times as fast as one over both.")
    if len(known) > 1:
        others = ", ".join(f"{other.tokens_per_s:,.0f} on {other.hardware}" for other in known[1:])
        output.note(f"On other hardware, tokens/s per replica: {others}. Set what you expect with --tokens-per-s.")
    if result.tokens_per_s is None:
        output.note("No earlier job under this root tells how fast this model is: time and cost are not known.")
        output.note("Run a small job first, or give the rate that you expect with --tokens-per-s.")


def _replicas(spec: JobSpec) -> str:
    size = spec.engine.tensor_parallel_size
    return f"{spec.replicas.max}, each over {size} GPUs" if size > 1 else f"{spec.replicas.max}"


def _outputs(result: Estimate) -> str:
    if result.output_share is None:
        return f"at most {result.output_tokens:,}: every row generates as much as it may"
    expected = result.output_share * result.output_tokens
    return f"about {expected:,.0f}: {result.output_share:.0%} of the most, as in earlier jobs of this name and prompt"


def _times(result: Estimate) -> dict[str, str]:
    """GPU-hours, time and cost, and what they follow from."""
    if result.tokens_per_s is None or result.gpu_hours is None or result.eta_s is None:
        return {"throughput": "not observed yet", "GPU-hours": "not known", "ETA": "not known"}
    given = f"{result.tokens_per_s:,.0f} tokens/s per replica"
    start = f"after {_duration(result.start_s)} to start" if result.start_s is not None else "its start not counted"
    about = "at most" if result.output_share is None else "about"
    return {
        "throughput": f"{given}, {start}" + (f" ({_source(result)})" if result.observed_on else ""),
        "GPU-hours": f"{about} {result.gpu_hours:,.2f}",
        "ETA": f"{about} {_duration(result.eta_s)}" + _range(result),
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
    return f" ({_duration(result.eta_low_s)} to {_duration(result.eta_high_s)}, as rates of earlier jobs vary)"


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{hours} h"
