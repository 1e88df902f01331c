"""`jobs report`: a job as one HTML page."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import signals
from jobs.cli.output import Output
from jobs.cli.reference import JobId, Root, open_job


def report(
    job_id: JobId,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="File, s3:// object or -. Default: ID.html.", show_default=False
        ),
    ] = None,
    root: Root = None,
    samples: Annotated[int, typer.Option("--samples", min=0, max=1000, help="Number of result rows to show.")] = 10,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="No text of any row, prompt or answer: for private data.")
    ] = False,
) -> None:
    """Write a job's report: outcome, throughput, tokens, errors, replicas, cost, what ran. One HTML file.

    It has no script and loads nothing, so it can be mailed and kept. For a running job it shows the state so far.

    Examples:

      jobs report reviews-20260301

      jobs report reviews-20260301 --no-samples -o s3://bucket/reports/reviews.html
    """
    from jobs.report.page import report as render
    from jobs.results.targets import check_target, open_target

    target = out or f"{job_id}.html"
    job = open_job(job_id, root)
    check_target(target, job.client.settings.allowed_buckets)
    price = job.client.settings.gpu_hour_price
    page = render(job, num_samples=0 if no_samples else samples, gpu_hour_price=price)
    output = Output()
    if target == "-":
        output.text(page)
        return
    with open_target(target, signals.stands) as file:
        file.write(page.encode())
    output.value(target)
