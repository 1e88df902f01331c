"""How commands refer to a job: its id and the root under which it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobs.client import Job

JobId = Annotated[str, typer.Argument(metavar="ID", help="Job id, as `jobs list` shows it.", show_default=False)]
Root = Annotated[
    str | None,
    typer.Option("--root", help="Where job directories live: s3://… or a directory.", show_default=False),
]


def open_job(job_id: str, root: str | None) -> Job:
    """The job of that id; nothing is read yet."""
    from jobs import settings
    from jobs.client import BatchClient

    return BatchClient(settings.load({"root": root})).job(job_id)
