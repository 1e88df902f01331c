"""All commands, by name. One is loaded when it is called; all of them for completion and unknown names, and for the
overview, which needs only what each is for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from jobs import __version__
from jobs.cli.help_text import present

Add = Callable[[typer.Typer, str, Any], None]
"""Adds a command to a program, under a name: a function, or a group of commands."""


def _plain(app: typer.Typer, name: str, function: Any) -> None:
    """Add a command with the options that its function declares."""
    app.command(name)(function)


def _of_spec(only: tuple[str, ...] | None = None, *, changes: bool = False) -> Add:
    """Add a command that takes the options of a job, or some panels of them; or changes of a spec that exists."""

    def add(app: typer.Typer, name: str, function: Any) -> None:
        from jobs.cli.options import add_spec_command

        add_spec_command(app, name, function, only=only, changes=changes)

    return add


def _group(app: typer.Typer, name: str, group: typer.Typer) -> None:
    """Add a group of commands."""
    app.add_typer(group, name=name)


_REPAIRING = (
    *("Sampling", "Form of the answer", "Pool"),
    *("Exports, once the job has succeeded",),
    *("Quality gates: shares from 0 to 1; exit 3 and no _SUCCESS if one is crossed",),
    *("replicas", "tensor_parallel", "device", "max_model_len", "max_num_seqs", "name", "retry_invalid", "keep_staged"),
)
"""Headings and names of the options that a job may change which repairs another."""

_COMMANDS: Mapping[str, tuple[str, str, Add]] = {
    "submit": ("submit", "submit", _of_spec()),
    "plan": ("plan", "plan", _of_spec()),
    "preview": ("preview", "preview", _of_spec()),
    "list": ("status", "list_jobs", _plain),
    "status": ("status", "status", _plain),
    "watch": ("watch", "watch", _plain),
    "wait": ("submit", "wait", _plain),
    "logs": ("logs", "logs", _plain),
    "results": ("results", "results", _plain),
    "export": ("export", "export", _plain),
    "report": ("report", "report", _plain),
    "lm-eval": ("lm_eval", "lm_eval", _of_spec(("Engine", "Pool", "reuse"))),
    "eval": ("evaluate", "evaluate", _of_spec(("Engine", "Pool", "reuse"))),
    "compare": ("compare", "compare", _plain),
    "sql": ("sql", "sql", _plain),
    "serve": ("serve", "serve", _plain),
    "ui": ("ui", "ui", _plain),
    "cancel": ("submit", "cancel", _plain),
    "pause": ("submit", "pause", _plain),
    "resume": ("submit", "resume", _plain),
    "retry": ("retry", "retry", _of_spec(_REPAIRING, changes=True)),
    "delete": ("delete", "delete", _plain),
    "prune": ("delete", "prune", _plain),
    "pool": ("pool", "app", _group),
    "schedule": ("schedule", "app", _group),
    "cluster": ("cluster", "app", _group),
    "model": ("model", "app", _group),
    "config": ("config", "show_config", _plain),
    "doctor": ("doctor", "run_doctor", _plain),
    "shell-init": ("shell", "shell_init", _plain),
}
"""Module of each command in `jobs.cli`, its function or group there, and how it is added, in the order of the help."""


_OVERVIEW = ("-h", "--help", "--version")
"""First arguments after which no command runs."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nightbatch {__version__}")
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command. `jobs.cli.main` reads --debug itself, so that it works after a command too."""


def _app_of(names: Collection[str], *, overview: bool = False) -> typer.Typer:
    built = typer.Typer(
        name="jobs",
        help="Distributed batch inference: a Parquet dataset of prompts in, every row's result out, exactly once.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        module, attribute, add = _COMMANDS[name]
        there = getattr(import_module(f"jobs.cli.{module}"), attribute)
        if not overview:
            add(built, name, there)
        elif isinstance(there, typer.Typer):
            built.add_typer(typer.Typer(help=there.info.help), name=name)
        else:
            built.command(name, help=inspect.getdoc(there))(_nothing)
    built.callback()(_options)
    return built


def _nothing() -> None:
    """Do nothing: in the overview, commands are there to be listed."""


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    return _whole_app()


@cache
def _whole_app() -> typer.Typer:
    return _app_of(_COMMANDS)


def command(arguments: Collection[str] = ()) -> Any:
    """Return the command line, ready to be called; its help says the name under which the program was called.

    Args:
        arguments: what it is to be called with. If they begin with a command, it is the only one.
    """
    called = next(iter(arguments), "")
    if called in _COMMANDS:
        app = _app_of([called])
    elif called in _OVERVIEW:
        app = _app_of(_COMMANDS, overview=True)
    else:
        app = _whole_app()
    whole = typer.main.get_command(app)
    present(whole)
    return whole
