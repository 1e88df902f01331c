"""`jobs serve`: OpenAI's Batch API over the jobs under one root."""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import signals
from jobs.cli.diary import log_to_stderr
from jobs.cli.output import Output, with_output
from jobs.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from jobs.settings import Settings
    from schemas.pools import Placement
    from schemas.spec import JobSpec

_PACKAGES = ("fastapi", "uvicorn", "python_multipart")


@with_output
def serve(
    output: Output,
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8340,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the clients' token; made if missing.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let every user of this machine in.")] = False,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Let the pages at /ui change and delete jobs, and run dates.")
    ] = False,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Model name that requests must give. Default: the directory's.")
    ] = None,
    max_file_mib: Annotated[
        int, typer.Option("--max-file-mib", min=1, help="Largest file that may be uploaded.")
    ] = 200,
    max_requests: Annotated[int, typer.Option("--max-requests", min=1, help="Most requests in a file.")] = 50_000,
    spec_file: Annotated[Path | None, typer.Option("--spec", help="TOML file with the spec of every batch.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model directory.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="vllm (default) or fake.")] = None,
    replicas: Annotated[str | None, typer.Option("--replicas", help="8 or 2..16. Default: 1.")] = None,
    pool: Annotated[str | None, typer.Option("--pool", help="Compute batches in this pool.")] = None,
    priority: Annotated[
        str | None, typer.Option("--priority", help="Their class there: urgent, normal (default), bulk.")
    ] = None,
    weight: Annotated[float | None, typer.Option("--weight", help="Their share within the class. Default: 1.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Most tokens for a request that sets no limit. Default: 256.")
    ] = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="Any field of the spec: FIELD=VALUE.")] = None,
    root: Annotated[str | None, typer.Option("--root", help="Where jobs and files live.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Dashboard of the Ray cluster to use.")] = None,
    token_path: Annotated[Path | None, typer.Option("--token-path", help="File with that cluster's token.")] = None,
) -> None:
    """Serve OpenAI's Batch API: files and batches by HTTP, over the same ledger as all jobs.

    Clients use http://HOST:PORT/v1 as base URL and the token as API key. Batches are jobs: `jobs list` shows
    them. All state is under the root, so a server may be killed and started again; batches go on meanwhile.
    Prometheus finds the state of schedules, jobs and batches at http://HOST:PORT/metrics, with the same token. The
    pages of `jobs ui` are at http://HOST:PORT/ui/; a browser signs in with it.

    Examples:

      jobs serve --model /models/internlm2_5-20b-chat --replicas 2..8

      jobs serve --engine fake --port 8340

      jobs serve --pool chat --priority urgent

      OPENAI_BASE_URL=http://127.0.0.1:8340/v1 OPENAI_API_KEY=$(cat TOKEN_FILE) python my_batch.py
    """
    from jobs import settings as settings_module

    check_packages("serve")
    settings = settings_module.load({"root": root, "address": address, "token_path": token_path})
    from jobs.serve.own_pages import is_loopback

    if no_auth and not is_loopback(host):
        raise UsageError(
            f"A server on {host} needs a token: others than this machine's users can reach it.", "Drop --no-auth."
        )
    flags = {"model": model, "engine": engine, "replicas": replicas, "max_tokens": max_tokens}
    placement = _placement(settings, spec_file, {"pool": pool, "priority": priority, "weight": weight})
    base = _spec(settings, spec_file, flags, assign, placement)
    with listen(host, port) as listener:
        from jobs.monitoring.exporter import Exporter
        from jobs.results.responses import model_name as name_of_model
        from jobs.serve.app import Limits, Service, make_app
        from jobs.serve.connections import most_connections
        from jobs.serve.runner import BatchRunner
        from jobs.serve.token import default_token_path, load_token
        from jobs.store import open_store
        from jobs.store.probe import check_write_once
        from jobs.ui.site import Site

        token_file = None if no_auth else token_file or default_token_path()
        store = open_store(settings.root)
        check_write_once(store)
        name = model_name or name_of_model(base)
        token = load_token(token_file) if token_file else None
        service = Service(
            store=store,
            runner=BatchRunner(settings, base, name, placement),
            model=name,
            token=token,
            limits=Limits(file_bytes=max_file_mib * 2**20, requests=max_requests, waiting=most_connections() // 16),
            exporter=Exporter(settings),
            pages=Site(settings=settings, token=token, allow_actions=allow_actions),
            local=is_loopback(host),
        )
        url = f"http://{shown_host(host)}:{listener.getsockname()[1]}/v1"
        output.record({"url": url, "model": name, "token_file": str(token_file or ""), "root": store.uri})
        output.hint(f"export OPENAI_BASE_URL={url}" + (f" OPENAI_API_KEY=$(cat {token_file})" if token_file else ""))
        sys.stdout.flush()
        log_to_stderr(logging.WARNING)
        stands = "No request is answered any more; batches go on, and the next `jobs serve` shows them."
        run_server(make_app(service), listener, stands)


def run_server(app: FastAPI, listener: socket.socket, stands: str) -> None:
    """Answer requests until a signal comes.

    Args:
        stands: what stands then, in a sentence.
    """
    from jobs.serve.connections import BoundedServer

    server, ended = BoundedServer(app), threading.Event()

    def end() -> None:
        """Answer the requests that are under way, as far as there is time."""
        server.should_exit = True
        ended.wait()

    signals.stands(stands)
    with signals.leftover(end):
        server.run(sockets=[listener])
        ended.set()


def check_packages(command: str) -> None:
    """Check that what `jobs serve` and `jobs ui` need is installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        from jobs.packages import install_hint

        raise MissingPackage(
            f"`jobs {command}` needs {', '.join(missing).replace('_', '-')}.", install_hint(missing[0])
        )


def _placement(settings: Settings, spec_file: Path | None, flags: dict[str, Any]) -> Placement | None:
    """Return the claim of every batch in a pool, if they compute in one."""
    from jobs.pools.placing import placement_of
    from jobs.spec.build import read_spec_file

    file_values = read_spec_file(spec_file) if spec_file else {}
    return placement_of(flags, file_values, settings, lambda name: f"--{name}")


def _spec(
    settings: Settings,
    spec_file: Path | None,
    flags: dict[str, Any],
    assign: list[str] | None,
    placement: Placement | None,
) -> JobSpec:
    """The spec of every batch but for its input: flags over the spec file over settings over defaults."""
    from jobs.cli.options import assignment
    from jobs.pools.book import pool_of
    from jobs.spec.build import read_spec_file
    from jobs.spec.options import spec_of

    fields = dict(assignment(text) for text in assign or ())
    file_values = read_spec_file(spec_file) if spec_file else {}
    spec = spec_of(
        settings.root,
        flags | {"fields": fields},
        settings,
        file_values,
        file=str(spec_file or ""),
        as_flags=True,
        pool=pool_of(settings.root, placement),
    )
    if spec.scores:
        raise UsageError("OpenAI's Batch API has no requests that score.", f"Drop task = '{spec.task}'.")
    if spec.input.limit is not None:
        raise UsageError("A batch answers all of its requests.", "Drop the limit of rows from the spec.")
    return spec


def listen(host: str, port: int) -> socket.socket:
    """Listen, or say why not."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.", "Give another --port; 0 takes a free one."
        ) from error


def shown_host(host: str) -> str:
    """Return the host as a URL has it."""
    return f"[{host}]" if ":" in host else host
