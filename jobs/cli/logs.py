"""`jobs logs`: what a job's driver and replicas have logged."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from jobs import signals
from jobs.cli.output import Output
from jobs.cli.reference import Address, JobId, Root, TokenPath, open_job
from jobs.errors import UsageError


class Level(StrEnum):
    """How severe a line is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def logs(
    job_id: JobId,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job's driver ends.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Only the last N lines.", show_default=False)
    ] = None,
    level: Annotated[
        Level | None,
        typer.Option(help="Only lines of this level, or more severe ones.", show_default=False, case_sensitive=False),
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option(
            help="Only lines of this replica, as `replica-3` or `3`; or of `driver`.",
            show_default=False,
            metavar="NAME",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what vLLM, Ray and others print, while the cluster has it.")
    ] = False,
) -> None:
    """Print what the job's driver and replicas have logged. Each line begins with who says it; times are in UTC.

    These lines are kept with the job, so they can be read after the cluster is gone, on any machine that reaches the
    job's root. Of each driver the last 4 MiB are kept. What other libraries print (`--all`) is on the cluster only.

    Examples:

      jobs logs -f reviews-20260301-020000-5f3a

      jobs logs reviews-20260301-020000-5f3a --level warning

      jobs logs reviews-20260301-020000-5f3a --replica 3 --tail 50
    """
    output = Output()
    if everything and level is not None:
        raise UsageError("--level and --all do not go together.", "Lines that others print have no level of ours.")
    source = f"replica-{replica}" if replica and replica.replace(".", "").isdecimal() else replica
    job = open_job(job_id, root, address, token_path)
    signals.stands(f"Not following any more; job {job.id} goes on." if follow else "These are not all lines.")
    log = job.open_log(everything=everything)
    lines = [line for line in log.so_far() if line.matches(level and level.name, source)]
    if everything and log.only_stored:
        output.warn("What others printed went with the cluster that ran the job; these are the lines that are kept.")
    for line in lines if tail is None else lines[max(0, len(lines) - tail) :]:
        output.text(f"{line}\n")
    for line in log.following(job.is_idle) if follow else ():
        if line.matches(level and level.name, source):
            output.text(f"{line}\n")
