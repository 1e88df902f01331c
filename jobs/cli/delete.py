"""`jobs delete` and `jobs prune`: jobs that are no longer wanted."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.output import Output, with_output
from jobs.cli.reference import Address, JobId, Root, TokenPath, client_of
from jobs.errors import UsageError

if TYPE_CHECKING:
    from jobs.retention.deleting import Freed

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it; without, it is only shown what would be done.")]
KeepResults = Annotated[
    bool,
    typer.Option(
        "--keep-results", help="Delete only logs, attempts, histories and staged rows: results can be read as before."
    ),
]


@with_output
def delete(
    output: Output,
    job_id: JobId,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    keep_results: KeepResults = False,
    yes: Yes = False,
) -> None:
    """Delete a job that has ended: its results and everything about it. Its id is never used again.

    What stays is a note of who has deleted it, and when. A job that is at work, that an unfinished job takes results
    from, or that a schedule's `latest` names is not deleted. Exported results stay where they are.

    Examples:

      jobs delete reviews-20260301-020000-5f3a

      jobs delete reviews-20260301-020000-5f3a --yes
    """
    from jobs.ledger import Ledger
    from jobs.retention.deleting import delete_job, to_be_freed, trim_job, unfinished
    from jobs.retention.policies import protection_of
    from jobs.tombstones import Deleted

    client = client_of(root, address, token_path)
    try:
        ledger = client.job(job_id).ledger
    except Deleted as error:
        ledger = Ledger(client.store, error.tombstone.job_id)
        if not yes or not unfinished(ledger):
            raise
        output.note("Its deletion was cut short, and is finished now.")
    else:
        if (why := protection_of(client).why(ledger)) is not None:
            raise UsageError(f"Job {ledger.job_id} is not deleted. {why}", "")
    if not yes:
        freed = to_be_freed(ledger, keep_results=keep_results)
        output.record({"job_id": ledger.job_id, "deleted": False, **_sizes(freed)})
        output.note("Nothing was deleted. It cannot be undone; to do it, add --yes.")
        return
    signals.stands(f"Job {ledger.job_id} may be deleted in part; the same command finishes it.")
    freed = trim_job(ledger) if keep_results else delete_job(ledger, by=getpass.getuser(), reason="jobs delete")
    signals.stands(f"Job {ledger.job_id} is {'trimmed to its results' if keep_results else 'deleted'}.")
    output.record({"job_id": ledger.job_id, "trimmed" if keep_results else "deleted": True, **_sizes(freed)})


@with_output
def prune(
    output: Output,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Jobs that ended longer ago: 30d, 12h.", show_default=False)
    ] = None,
    keep_newest: Annotated[
        int | None,
        typer.Option(
            "--keep-newest",
            min=0,
            help="Of each schedule, and of other jobs of one name, the newest so many stay.",
            show_default=False,
        ),
    ] = None,
    keep_results: KeepResults = False,
    yes: Yes = False,
) -> None:
    """Delete jobs that ended long ago, as `jobs delete` does, and finish deletions that were cut short.

    Examples:

      jobs prune --older-than 30d --keep-newest 7

      jobs prune --older-than 90d --keep-results --yes
    """
    from jobs.durations import seconds
    from jobs.retention.deleting import delete_job
    from jobs.retention.policies import protection_of
    from jobs.retention.protection import deleted_in_part
    from jobs.retention.pruning import prunable
    from jobs.retention.pruning import prune as pruned
    from jobs.text import duration

    if older_than is None and keep_newest is None:
        raise UsageError("Neither age nor number is given.", "Say which jobs go: --older-than 30d, --keep-newest 7")
    older_than_s = None if older_than is None else seconds(older_than, "--older-than")
    client = client_of(root, address, token_path)
    options = {"--older-than": older_than, "--keep-newest": keep_newest}
    reason = " ".join(["jobs prune", *(f"{flag} {value}" for flag, value in options.items() if value is not None)])
    signals.stands("Jobs may be deleted in part; the same command finishes them.")
    halves = deleted_in_part(client.store)
    for ledger in halves if yes else []:
        delete_job(ledger, by=getpass.getuser(), reason=reason)
    chosen = prunable(client.store, older_than_s, keep_newest)
    rows, kept, num_bytes = [], list[tuple[str, str]](), 0
    for each in pruned(
        client.store,
        chosen,
        lambda: protection_of(client),
        by=getpass.getuser(),
        reason=reason,
        keep_results=keep_results,
        dry_run=not yes,
    ):
        job = each.job
        if each.freed is None:
            kept.append((job.ledger.job_id, each.kept_because or ""))
            continue
        num_bytes += each.freed.num_bytes
        rows.append(
            {"job_id": job.ledger.job_id, "state": str(job.state), "ended": f"{duration(job.age_s)} ago"}
            | {"trimmed" if keep_results else "deleted": yes, **_sizes(each.freed)}
        )
    columns = {"job_id": "id", "state": "state", "ended": "ended", "objects": "objects", "bytes": "bytes"}
    if rows or output.format == "json":
        output.table(rows, columns)
    for job_id, why in kept:
        output.note(f"{job_id} stays. {why}")
    if halves:
        number = "A deletion was" if len(halves) == 1 else f"{len(halves):,} deletions were"
        output.note(f"{number} cut short{', and finished now' if yes else ' before'}.")
    what = f"{len(rows):,} job{'' if len(rows) == 1 else 's'}, {num_bytes / 2**20:,.1f} MiB"
    done = "trimmed to their results" if keep_results else "deleted"
    if not rows:
        output.note("No job is to be deleted.")
    output.note(f"{what}: {done}." if yes else f"{what} would be {done}. Nothing was deleted; to do it, add --yes.")


def _sizes(freed: Freed) -> dict[str, int]:
    return {"objects": freed.num_objects, "bytes": freed.num_bytes}
