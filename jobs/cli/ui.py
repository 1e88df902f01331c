"""`jobs ui`: web pages over the jobs, schedules and pools under one root."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.diary import log_to_stderr
from jobs.cli.output import Output, with_output
from jobs.cli.serve import check_packages, listen, run_server, shown_host
from jobs.errors import UsageError

if TYPE_CHECKING:
    from jobs.ui.site import Site


MANY = 200
"""Jobs that the index does not know, from which on they are read before the first page is shown."""


@with_output
def ui(
    output: Output,
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8341,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the token to sign in with; made if missing.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let every user of this machine in.")] = False,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Let pages change and delete jobs, and run dates of schedules.")
    ] = False,
    root: Annotated[str | None, typer.Option("--root", help="Where jobs live.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Dashboard of the Ray cluster that actions use.")
    ] = None,
    token_path: Annotated[Path | None, typer.Option("--token-path", help="File with that cluster's token.")] = None,
) -> None:
    """Serve web pages: what failed and why, what it cost, what is late, and whether `latest` is good.

    They are read from the store alone, so no cluster has to run, and they change nothing without --allow-actions. A
    browser signs in with the token in the token file, which is that of `jobs serve`. `jobs serve` has them too, at /ui.

    Examples:

      jobs ui

      jobs ui --root s3://bucket/jobs --port 8080 --allow-actions
    """
    from jobs import settings as settings_module

    check_packages("ui")
    settings = settings_module.load({"root": root, "address": address, "token_path": token_path})
    from jobs.serve.own_pages import is_loopback

    local = is_loopback(host)
    if no_auth and not local:
        raise UsageError(
            f"A server on {host} needs a token: others than this machine's users can reach it.", "Drop --no-auth."
        )
    with listen(host, port) as listener:
        from jobs.serve.token import default_token_path, load_token
        from jobs.ui.app import make_app
        from jobs.ui.site import Site

        token_file = None if no_auth else token_file or default_token_path()
        token = load_token(token_file) if token_file else None
        site = Site(settings=settings, token=token, allow_actions=allow_actions)
        _index(site, output)
        url = f"http://{shown_host(host)}:{listener.getsockname()[1]}/ui/"
        output.record({"url": url, "token_file": str(token_file or ""), "root": site.store.uri})
        if token_file:
            output.hint(f"The token to sign in with: cat {token_file}")
        sys.stdout.flush()
        log_to_stderr(logging.WARNING)
        run_server(
            make_app(site, local=local), listener, "The pages are away; jobs go on. The same command serves them."
        )


def _index(site: Site, output: Output) -> None:
    """Read the jobs of a root whose index is missing, once; pages would be slow until then."""
    from jobs.status.listing import index_ended

    count = len(site.index.look().others)
    if count >= MANY:
        output.note(f"Reading {count:,} jobs that the index does not know yet; the next start will not.")
        index_ended(site.store, site.index, lambda looked: output.note(f"{looked:,} of {count:,}"))
