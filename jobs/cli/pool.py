"""`jobs pool`: engines that stay loaded, shared by many jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import signals
from jobs.cli.options import Request, add_spec_command
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import Address, PoolName, Root, TokenPath, client_of
from jobs.errors import Exit, JobsError
from jobs.looks import Looks

if TYPE_CHECKING:
    from jobs.pools.client import PoolStanding

app = typer.Typer(help="Pools: engines that stay loaded and are shared by many jobs.", no_args_is_help=True)

ENGINE_OPTIONS = (
    "model",
    "engine",
    "tensor_parallel",
    "device",
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "quantization",
    "kv_cache_dtype",
    "speculative_ngram",
)
"""Options of a job that are the pool's for all jobs in it."""

WATCH_S, WAIT_LOOK_S = 2.0, 0.5

_JOBS = {
    "job_id": "job",
    "priority": "class",
    "weight": "weight",
    "share": "last minute",
    "rows_left": "rows left",
    "rows_in_flight": "in flight",
    "engine_time": "engine time",
}
_REPLICAS = {
    "replica": "replica",
    "state": "state",
    "node": "node",
    "rows_in_flight": "rows in flight",
    "tokens_per_s": "tokens/s",
    "jobs": "jobs",
    "note": "note",
}


def up(
    output: Output,
    pool_name: Annotated[str, typer.Argument(metavar="NAME", help="The pool's name.", show_default=False)],
    *,
    request: Request,
    replicas: Annotated[
        str, typer.Option("--replicas", help="2, or 0..8: by the rows that wait, and the least when idle.")
    ] = "1",
    idle: Annotated[
        str, typer.Option("--idle", help="A replica beyond the least that has no rows for so long ends: 15m.")
    ] = "15m",
    wait: Annotated[bool, typer.Option("--wait", help="Stay until a replica is ready.")] = False,
) -> None:
    """Start a pool: engines that stay loaded, for jobs with --pool NAME. Returns at once.

    The same command again attaches to the pool. With other options, or after an upgrade of the program, the pool's
    replicas are replaced one by one, and its jobs go on.

    Examples:

      jobs pool up chat --model /models/internlm2_5-20b-chat --replicas 0..8

      jobs pool up demo --engine fake --wait && jobs submit prompts.parquet --pool demo
    """
    from jobs.client import BatchClient
    from jobs.durations import seconds
    from jobs.pools.ranges import parse_range

    client = BatchClient(request.settings)
    client.before_cluster_start = lambda: output.note("Starting a local Ray cluster …")
    reach, idle_s = parse_range(replicas), seconds(idle, "--idle")
    signals.stands(f"Pool {pool_name} may have been started; the same command again does no harm.")
    spec, changed = client.pools().up(
        pool_name, model=request.spec.model, engine=request.spec.engine, replicas=reach, idle_s=idle_s
    )
    signals.stands(f"Pool {pool_name} is up or starting: jobs pool show {pool_name}")
    if wait:
        _wait_until_ready(client.pools().standing, pool_name)
    output.record(
        {
            "pool": spec.name,
            "state": client.pools().standing(pool_name).word,
            "model": spec.model.path,
            "replicas": str(spec.replicas),
            "generation": spec.generation,
        }
    )
    if not changed:
        output.note("The pool was up with the same options.")
    output.hint(f"jobs submit prompts.parquet --pool {spec.name}")
    output.hint(f"jobs pool watch {spec.name}")


@app.command("list")
@with_output
def list_pools(output: Output, root: Root = None, address: Address = None, token_path: TokenPath = None) -> None:
    """List the pools under the root.

    Example:

      jobs pool list
    """
    standings = list(client_of(root, address, token_path).pools().standings())
    output.table(
        [_row(standing) for standing in standings],
        {"pool": "pool", "state": "state", "model": "model", "replicas": "replicas", "ready": "ready", "jobs": "jobs"},
    )
    if not standings:
        output.hint("Start one with: jobs pool up NAME --model DIR")


@app.command("show")
@with_output
def show(
    output: Output, pool_name: PoolName, root: Root = None, address: Address = None, token_path: TokenPath = None
) -> None:
    """Show a pool: its replicas, its jobs, and who got what in the last minute.

    Example:

      jobs pool show chat
    """
    _show(output, client_of(root, address, token_path).pools().standing(pool_name))


@app.command("watch")
@with_output
def watch(
    output: Output,
    pool_name: PoolName,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Watch for at most this many seconds, then exit 124.", show_default=False),
    ] = None,
) -> None:
    """Show a pool again and again until it is down. Ctrl-C stops watching; the pool goes on.

    Example:

      jobs pool watch chat
    """
    pools = client_of(root, address, token_path).pools()
    signals.stands(f"Pool {pool_name} goes on without you: jobs pool watch {pool_name}")
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        standing = pools.standing(pool_name)
        if output.format is Format.TABLE:
            typer.echo("\x1b[2J\x1b[H" if _is_terminal() else "", nl=False)
        _show(output, standing)
        if standing.word in ("DOWN", "FAILED", "LOST"):
            raise typer.Exit(Exit.OK if standing.word == "DOWN" else Exit.JOB_FAILED)
        if deadline is not None and time.monotonic() >= deadline:
            raise typer.Exit(124)
        time.sleep(WATCH_S)


@app.command("down")
@with_output
def down(
    output: Output,
    pool_name: PoolName,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    drain: Annotated[bool, typer.Option("--drain", help="Let its jobs end first; none joins any more.")] = False,
) -> None:
    """Take a pool down. Its jobs are interrupted and can be resumed; what they have finished stays.

    Examples:

      jobs pool down chat --drain

      jobs pool down chat
    """
    pools = client_of(root, address, token_path).pools()
    signals.stands(f"Pool {pool_name} may be going down: jobs pool show {pool_name}")
    pools.down(pool_name, drain=drain)
    standing = pools.standing(pool_name)
    output.record({"pool": pool_name, "state": standing.word})
    if standing.word == "DRAINING":
        output.hint(f"jobs pool watch {pool_name}")


add_spec_command(app, "up", up, only=ENGINE_OPTIONS)


def _wait_until_ready(standing_of: Any, name: str) -> None:
    """Wait until a replica is ready.

    Raises:
        JobsError: the pool has ended.
    """
    looks = Looks(WAIT_LOOK_S)
    while True:
        standing = standing_of(name)
        if standing.word in ("DOWN", "FAILED", "LOST"):
            raise JobsError(f"Pool {name} is {standing.word}. {standing.reason}".strip(), "See: jobs doctor")
        state = standing.state
        if state is not None and state.phase != "ended":
            newest = standing.spec.generation
            if any(each.state == "ready" and each.generation == newest for each in state.replicas):
                return
        if standing.word == "UP" and standing.spec.replicas.min == 0:
            return
        looks.pause()


def _row(standing: PoolStanding) -> dict[str, Any]:
    state, spec = standing.state, standing.spec
    is_up = state is not None and standing.word in ("STARTING", "UP", "DRAINING")
    return {
        "pool": spec.name,
        "state": standing.word,
        "model": spec.model.path,
        "engine": spec.engine.name,
        "replicas": str(spec.replicas),
        "ready": sum(each.state == "ready" for each in state.replicas) if is_up and state else 0,
        "jobs": len(state.jobs) if is_up and state else 0,
        "generation": spec.generation,
        "reason": standing.reason,
    }


def _show(output: Output, standing: PoolStanding) -> None:
    from jobs.text import duration, percent

    state = standing.state if standing.word in ("STARTING", "UP", "DRAINING") else None
    replicas = [each.model_dump(mode="json") for each in state.replicas] if state else []
    jobs = [each.model_dump(mode="json") for each in state.jobs] if state else []
    row = {name: value for name, value in _row(standing).items() if value != "" and name not in ("ready", "jobs")}
    if output.format is not Format.TABLE:
        output.record({**row, "device": state.device if state else "", "replica_states": replicas, "jobs": jobs})
        return
    output.record(row)
    if replicas:
        shown = [{**each, "jobs": len(each["jobs"]), "state": each["state"]} for each in replicas]
        typer.echo()
        output.table(shown, _REPLICAS)
    if jobs:
        typer.echo()
        output.table(
            [
                {
                    **each,
                    "share": percent(each["share"]),
                    "weight": f"{each['weight']:g}",
                    "engine_time": duration(each["engine_s"]),
                }
                for each in jobs
            ],
            _JOBS,
        )


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
