"""How commands refer to a job: its id and the root under which it lives."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.schedule_keys import SCHEDULES

if TYPE_CHECKING:
    from jobs.client import BatchClient, Job

MAX_COMPLETIONS = 50
_POOLS = "_pools"
"""Folder of `schemas.pools`, which takes too long to import for every command."""


def complete_job_id(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest jobs that begin like that, of a root on this machine: a store elsewhere is not asked."""
    return _newest(ctx, "", incomplete, "_job/spec.json")


def complete_reuse(ctx: typer.Context, incomplete: str) -> list[str]:
    """What --reuse takes: `auto` or a job's id."""
    return [*(["auto"] if "auto".startswith(incomplete) else []), *complete_job_id(ctx, incomplete)]


def complete_schedule(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of schedules that begin like that, of a root on this machine."""
    return sorted(_newest(ctx, SCHEDULES, incomplete, "schedule.json"))


def complete_pool(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of pools that begin like that, of a root on this machine."""
    return sorted(_newest(ctx, _POOLS, incomplete, "state.json"))


def _newest(ctx: typer.Context, folder: str, incomplete: str, document: str) -> list[str]:
    """Folders that begin like that and hold a document, newest document first."""
    from jobs import settings
    from jobs.errors import JobsError

    try:
        root = settings.load({"root": ctx.params.get("root")}).root
        if "://" in root:
            return []
        found = [(path / document, path.name) for path in Path(root, folder).glob(f"{glob.escape(incomplete)}*")]
        dated = sorted(((file.stat().st_mtime, name) for file, name in found if file.is_file()), reverse=True)
    except (JobsError, OSError):
        return []
    return [name for _, name in dated[:MAX_COMPLETIONS]]


JobId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Job id or the beginning of one, `latest`, or a job's name.",
        show_default=False,
        autocompletion=complete_job_id,
    ),
]
ScheduleName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The schedule's name.", show_default=False, autocompletion=complete_schedule),
]
PoolName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The pool's name.", show_default=False, autocompletion=complete_pool),
]
Root = Annotated[
    str | None,
    typer.Option("--root", help="Where job directories live: s3://… or a directory.", show_default=False),
]
Address = Annotated[
    str | None, typer.Option("--address", help="Dashboard of the Ray cluster to use.", show_default=False)
]
TokenPath = Annotated[
    Path | None, typer.Option("--token-path", help="File with that cluster's token.", show_default=False)
]


def client_of(root: str | None, address: str | None = None, token_path: Path | None = None) -> BatchClient:
    """Return the client for a root and a cluster. Nothing is contacted yet."""
    from jobs import settings
    from jobs.client import BatchClient

    return BatchClient(settings.load({"root": root, "address": address, "token_path": token_path}))


def open_job(job_id: str, root: str | None, address: str | None = None, token_path: Path | None = None) -> Job:
    """Find the job that is meant by an id, the beginning of one, `latest` or a name; see `jobs.job_ids`."""
    return client_of(root, address, token_path).job(job_id)
