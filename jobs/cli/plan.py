"""`jobs plan`: the dry run."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import Request, with_spec
from jobs.cli.output import Format, Output, with_output


@with_output
@with_spec
def plan(
    output: Output,
    *,
    request: Request,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to tokenise; more are scaled up.")] = 20_000,
    tokens_per_s: Annotated[
        float | None, typer.Option("--tokens-per-s", help="Throughput of one replica.", show_default=False)
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option("--gpu-price", help="Price of a GPU for an hour.", show_default=False)
    ] = None,
) -> None:
    """Tell what a job would be: rows, tokens, errors, GPU-hours and cost. Starts nothing.

    Takes the same options as `jobs submit`.

    Example:

      jobs plan reviews.parquet --model /models/internlm2_5-20b-chat --replicas 8 --gpu-price 2.50
    """
    from dataclasses import asdict

    from jobs.estimate import DEFAULT_TOKENS_PER_S, estimate
    from jobs.ledger import Ledger
    from jobs.specs import new_job_id
    from jobs.store import open_store

    price = gpu_price if gpu_price is not None else request.settings.gpu_hour_price
    rate = tokens_per_s or DEFAULT_TOKENS_PER_S
    spec = request.spec
    ledger = Ledger(open_store(request.settings.root), new_job_id(spec.name)) if spec.reuse else None
    result = estimate(spec, sample_rows=sample, tokens_per_s=rate, gpu_hour_price=price, ledger=ledger)
    if output.format is not Format.TABLE:
        output.record(asdict(result) | {"exact": result.exact, "tokens_per_s": rate})
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
            "output tokens": f"at most {result.output_tokens:,}",
            "replicas": spec.replicas.max,
            "GPU-hours": f"at most {result.gpu_hours:,.2f}",
            "ETA": f"at most {_duration(result.eta_s)}",
            **({"cost": f"at most {result.cost:,.2f}"} if result.cost is not None else {}),
        }
    )
    output.note(f"GPU-hours and ETA take {rate:,.0f} tokens/s per replica; set what yours reach with --tokens-per-s.")


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{hours} h"
