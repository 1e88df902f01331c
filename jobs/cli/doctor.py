"""`jobs doctor`: check everything that a job needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from jobs.cli.output import Format, Output, with_output
from jobs.shell import as_called


@with_output
def run_doctor(
    out: Output,
    address: Annotated[str | None, typer.Option(help="Dashboard address of the cluster to check.")] = None,
    token_path: Annotated[str | None, typer.Option(help="File with that cluster's token.")] = None,
    root: Annotated[str | None, typer.Option(help="Where job directories live: s3://… or a directory.")] = None,
    model: Annotated[str | None, typer.Option(help="Model directory to check.")] = None,
) -> None:
    """Check versions, packages, cluster, GPUs, object store, model and shell; say how to fix what is wrong.

    On the cluster it runs a job of a few seconds. Exit code 1 if a check fails; warnings do not count.

    Example:

      jobs doctor --address http://HOST:8265 --root s3://bucket/jobs
    """
    from jobs import settings
    from jobs.doctor import findings as doctor

    flags = {"address": address, "token_path": token_path, "root": root, "model": model}
    findings = list(doctor.examine(settings.load(flags)))
    rows = [{name: as_called(text) for name, text in asdict(finding).items()} for finding in findings]
    out.table(rows, ["check", "level", "detail"])
    if out.format is not Format.JSON:
        for finding in findings:
            if finding.fix:
                out.note(f"{finding.check}: {finding.fix}")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)
