"""`jobs logs`: what a job's driver and replicas say."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import signals
from jobs.cli.output import Output
from jobs.cli.reference import Address, JobId, Root, TokenPath, open_job


def logs(
    job_id: JobId,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the driver ends.")] = False,
) -> None:
    """Print what the job's driver and replicas have logged, a whole line at a time, each with who says it.

    Examples:

      jobs logs -f reviews-20260301-020000-5f3a

      jobs logs reviews-20260301-020000-5f3a | grep '^replica-3 '
    """
    from jobs.cli.log_lines import LogLines

    output, lines = Output(), LogLines()
    signals.stands(f"Not following any more; job {job_id} goes on." if follow else "These are not all lines.")
    for piece in open_job(job_id, root, address, token_path).logs(follow=follow):
        output.text("".join(f"{line}\n" for line in lines.feed(piece)))
    output.text("".join(f"{line}\n" for line in lines.flush()))
