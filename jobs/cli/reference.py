"""How commands refer to a job: its id and the root under which it lives."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobs.client import BatchClient, Job

MAX_COMPLETIONS = 50


def complete_job_id(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest jobs that begin like that, of a root on this machine: a store elsewhere is not asked."""
    from pathlib import Path

    from jobs import settings
    from jobs.errors import JobsError

    try:
        root = settings.load({"root": ctx.params.get("root")}).root
        if "://" in root:
            return []
        specs = [path / "_job" / "spec.json" for path in Path(root).glob(f"{glob.escape(incomplete)}*")]
        dated = sorted(((path.stat().st_mtime, path.parts[-3]) for path in specs if path.is_file()), reverse=True)
    except (JobsError, OSError):
        return []
    return [job_id for _, job_id in dated[:MAX_COMPLETIONS]]


JobId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Job id or the beginning of one, `latest`, or a job's name.",
        show_default=False,
        autocompletion=complete_job_id,
    ),
]
Root = Annotated[
    str | None,
    typer.Option("--root", help="Where job directories live: s3://… or a directory.", show_default=False),
]


def client_of(root: str | None) -> BatchClient:
    """Return the client for a root. Nothing is contacted yet."""
    from jobs import settings
    from jobs.client import BatchClient

    return BatchClient(settings.load({"root": root}))


def open_job(job_id: str, root: str | None) -> Job:
    """Find the job that is meant by an id, the beginning of one, `latest` or a name; see `jobs.job_ids`."""
    return client_of(root).job(job_id)
