"""`jobs report`: a job as one HTML page."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import signals
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import JobId, Root, client_of


@with_output
def report(
    output: Output,
    job_id: JobId,
    target: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="File or s3:// object; - is stdout. Default: ID.html.", show_default=False),
    ] = None,
    root: Root = None,
    samples: Annotated[int, typer.Option("--samples", min=0, max=1000, help="Show this many result rows.")] = 10,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="No text of any row, prompt or answer: for private data.")
    ] = False,
) -> None:
    """Write a job's report: outcome, throughput, tokens, errors, replicas, cost, what ran. One HTML file.

    It has no script and loads nothing, so it can be mailed and kept. For a running job, the report covers what has
    finished so far.

    Examples:

      jobs report reviews-20260301

      jobs report reviews-20260301 s3://bucket/reports/reviews.html --no-samples
    """
    from jobs.report.page import report as render
    from jobs.results.targets import check_target, open_target

    client = client_of(root)
    if target:
        check_target(target, client.settings.allowed_buckets)
    job = client.job(job_id)
    target = target or f"{job.id}.html"
    price = job.client.settings.gpu_hour_price
    page = render(job, num_samples=0 if no_samples else samples, gpu_hour_price=price)
    if target == "-":
        output.text(page)
        return
    with open_target(target, signals.stands) as file:
        file.write(page.encode())
    if output.format is Format.JSON:
        output.record({"job_id": job.id, "file": target})
    else:
        output.value(target)
