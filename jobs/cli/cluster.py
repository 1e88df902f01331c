"""`jobs cluster`: the embedded cluster on this machine."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.output import Output, with_output
from jobs.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from jobs.cluster.embedded import Cluster

app = typer.Typer(help="The embedded Ray cluster on this machine.", no_args_is_help=True)


@app.command("up")
@with_output
def cluster_up(out: Output) -> None:
    """Start the embedded cluster, or show the one that runs.

    `jobs submit` does this by itself when no cluster is configured.

    Example:

      jobs cluster up
    """
    from jobs.cluster.embedded import current, up

    if current() is None:
        signals.stands("No cluster was started.")
        out.note("Starting a Ray cluster on this machine…")
    cluster = up()
    signals.stands("The embedded cluster runs: jobs cluster status")
    out.record(_described(cluster))
    out.hint("End it with `jobs cluster down`.")


@app.command("down")
@with_output
def cluster_down(
    out: Output,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", "--force", help="Do not ask: interrupt the jobs that run on it.")
    ] = False,
) -> None:
    """End the embedded cluster and every process of it. If jobs run on it, it asks first; a script needs --yes.

    Jobs that run on it are interrupted; what they have finished stays, and `jobs resume` goes on from there.

    Examples:

      jobs cluster down

      jobs cluster down --yes
    """
    from jobs.cluster.embedded import current, down

    running = current()
    if running is not None and not yes:
        _ask(_at_work(running))
    signals.stands("The embedded cluster may be ended in part; end the rest with: jobs cluster down")
    ended = down()
    signals.stands("No embedded cluster runs any more.")
    if out.format == "json":
        out.record({"ended": ended})
    out.note("The embedded cluster has ended." if ended else "No embedded cluster was running.")


@app.command("status")
@with_output
def cluster_status(out: Output) -> None:
    """Show the embedded cluster. Exit code 4 if none runs.

    Example:

      jobs cluster status --json
    """
    from jobs.cluster.embedded import current

    cluster = current()
    if cluster is None:
        out.note("No embedded cluster is running.")
        out.hint("Start one with `jobs cluster up`.")
        raise typer.Exit(4)
    out.record(_described(cluster))


def _at_work(cluster: Cluster) -> list[str]:
    """Ids of the jobs that run on the cluster; none if it does not answer, because then they cannot go on."""
    from jobs.cluster.submission import Submitter

    try:
        return Submitter(cluster.dashboard_url, cluster.token_path).jobs_at_work()
    except ClusterError:
        return []


def _ask(job_ids: list[str]) -> None:
    """Ask whether jobs may be interrupted.

    Raises:
        UsageError: they may not, or there is nobody to ask.
    """
    if not job_ids:
        return
    jobs = f"{len(job_ids)} job{'s' * (len(job_ids) > 1)} ({', '.join(job_ids)})"
    if not _is_interactive():
        raise UsageError(
            f"The embedded cluster runs {jobs}.",
            "Wait for their end, or interrupt them with: jobs cluster down --yes; jobs resume ID goes on later.",
        )
    if not typer.confirm(f"This interrupts {jobs}. Go on?", err=True):
        raise UsageError("The embedded cluster was left alone.")


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _described(cluster: Cluster) -> dict[str, object]:
    from jobs.cluster.embedded import metrics_path

    return {
        "dashboard": cluster.dashboard_url,
        "address": cluster.address,
        "token_file": str(cluster.token_path),
        "pid": cluster.pid,
        "started": datetime.fromtimestamp(cluster.started_at, UTC).isoformat(timespec="seconds"),
        "metrics": str(metrics_path()),
        "logs": str(cluster.temp_dir / "ray" / "session_latest" / "logs"),
    }
