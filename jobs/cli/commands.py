"""All commands, by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs import __version__
from jobs.cli import (
    cluster,
    compare,
    config,
    doctor,
    evaluate,
    export,
    lm_eval,
    logs,
    model,
    plan,
    preview,
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
from jobs.cli.help_text import present
from jobs.cli.options import add_spec_command

app = typer.Typer(
    name="jobs",
    help="Distributed batch inference: a Parquet dataset of prompts in, every row's result out, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_spec_command(app, "submit", submit.submit)
add_spec_command(app, "plan", plan.plan)
add_spec_command(app, "preview", preview.preview)
app.command("list")(status.list_jobs)
app.command("status")(status.status)
app.command("watch")(watch.watch)
app.command("wait")(submit.wait)
app.command("logs")(logs.logs)
app.command("results")(results.results)
app.command("export")(export.export)
app.command("report")(report.report)
add_spec_command(app, "lm-eval", lm_eval.lm_eval, only=("Engine", "reuse"))
add_spec_command(app, "eval", evaluate.evaluate, only=("Engine", "reuse"))
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command. `jobs.cli.main` reads --debug itself, so that it works after a command too."""


def command() -> Any:
    """Return the command line, ready to be called; its help says the name under which the program was called."""
    whole = typer.main.get_command(app)
    present(whole)
    return whole
