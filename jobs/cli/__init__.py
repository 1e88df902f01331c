"""The command line: `app` holds the commands, `main` runs it and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from jobs import __version__
from jobs.cli import (
    cluster,
    compare,
    config,
    doctor,
    logs,
    model,
    plan,
    report,
    results,
    schedule,
    serve,
    shell,
    sql,
    status,
    submit,
    watch,
)
from jobs.cli.output import Output
from jobs.errors import Exit, JobsError, UsageError

app = typer.Typer(
    name="jobs",
    help="Distributed batch inference: a Parquet dataset of prompts in, every row's result out, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("submit")(submit.submit)
app.command("plan")(plan.plan)
app.command("list")(status.list_jobs)
app.command("status")(status.status)
app.command("watch")(watch.watch)
app.command("wait")(submit.wait)
app.command("logs")(logs.logs)
app.command("results")(results.results)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("sql")(sql.sql)
app.command("serve")(serve.serve)
app.command("cancel")(submit.cancel)
app.command("resume")(submit.resume)
app.add_typer(schedule.app, name="schedule")
app.add_typer(cluster.app, name="cluster")
app.add_typer(model.app, name="model")
app.command("config")(config.show_config)
app.command("doctor")(doctor.run_doctor)
app.command("shell-init")(shell.shell_init)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nightbatch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command. `main` reads --debug itself, so that it works after a command too."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; default: those of this process.

    Returns:
        The exit code, see `jobs.errors.Exit`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    own = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in own
    given = [*(each for each in own if each != "--debug"), *given[len(own) :]]
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as in `jobs list | head -1`. Python would complain again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except JobsError as error:
        code = _report(error, debug)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: one line, not a page
        code = _report(_presentable(error), debug)
    return int(code)


def _run(arguments: list[str]) -> int:
    try:
        # Completion of `batchjobs` asks under that name.
        app(arguments, prog_name="batchjobs" if Path(sys.argv[0]).name == "batchjobs" else "jobs")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return Exit.OK


def _report(error: JobsError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    Output().error(error)
    return error.exit_code


def _presentable(error: Exception) -> JobsError:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        reasons = [
            f"{'.'.join(map(str, each['loc'])) or error.title}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False, include_input=False)
        ]
        return UsageError("; ".join(reasons) + ".")
    first = str(error).partition("\n")[0]
    return JobsError(
        f"Unexpected {type(error).__name__}: {first}", hint="This is a fault of the program; --debug shows where."
    )
