"""All commands, by name. One is loaded when it is called; all of them for help, completion and unknown names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from jobs import __version__
from jobs.cli.help_text import present


def _plain(function: str) -> Callable[[typer.Typer, str, Any], None]:
    """Add a command that is a function of a module."""
    return lambda app, name, module: app.command(name)(getattr(module, function))


def _of_spec(function: str, only: tuple[str, ...] | None = None) -> Callable[[typer.Typer, str, Any], None]:
    """Add a command that takes the options of a job, or some panels of them."""

    def add(app: typer.Typer, name: str, module: Any) -> None:
        from jobs.cli.options import add_spec_command

        add_spec_command(app, name, getattr(module, function), only=only)

    return add


def _of_changes(function: str, only: tuple[str, ...]) -> Callable[[typer.Typer, str, Any], None]:
    """Add a command that takes changes of a spec that exists."""

    def add(app: typer.Typer, name: str, module: Any) -> None:
        from jobs.cli.options import add_spec_command

        add_spec_command(app, name, getattr(module, function), only=only, changes=True)

    return add


def _group(app: typer.Typer, name: str, module: Any) -> None:
    """Add a module's group of commands."""
    app.add_typer(module.app, name=name)


_REPAIRING = (
    *("Sampling", "Form of the answer", "Pool"),
    *("Exports, once the job has succeeded",),
    *("Quality gates: shares from 0 to 1; exit 3 and no _SUCCESS if one is crossed",),
    *("replicas", "tensor_parallel", "device", "max_model_len", "max_num_seqs", "name", "retry_invalid", "keep_staged"),
)
"""Headings and names of the options that a job may change which repairs another."""

_COMMANDS: Mapping[str, tuple[str, Callable[[typer.Typer, str, Any], None]]] = {
    "submit": ("submit", _of_spec("submit")),
    "plan": ("plan", _of_spec("plan")),
    "preview": ("preview", _of_spec("preview")),
    "list": ("status", _plain("list_jobs")),
    "status": ("status", _plain("status")),
    "watch": ("watch", _plain("watch")),
    "wait": ("submit", _plain("wait")),
    "logs": ("logs", _plain("logs")),
    "results": ("results", _plain("results")),
    "export": ("export", _plain("export")),
    "report": ("report", _plain("report")),
    "lm-eval": ("lm_eval", _of_spec("lm_eval", ("Engine", "Pool", "reuse"))),
    "eval": ("evaluate", _of_spec("evaluate", ("Engine", "Pool", "reuse"))),
    "compare": ("compare", _plain("compare")),
    "sql": ("sql", _plain("sql")),
    "serve": ("serve", _plain("serve")),
    "ui": ("ui", _plain("ui")),
    "cancel": ("submit", _plain("cancel")),
    "pause": ("submit", _plain("pause")),
    "resume": ("submit", _plain("resume")),
    "retry": ("retry", _of_changes("retry", _REPAIRING)),
    "delete": ("delete", _plain("delete")),
    "prune": ("delete", _plain("prune")),
    "pool": ("pool", _group),
    "schedule": ("schedule", _group),
    "cluster": ("cluster", _group),
    "model": ("model", _group),
    "config": ("config", _plain("show_config")),
    "doctor": ("doctor", _plain("run_doctor")),
    "shell-init": ("shell", _plain("shell_init")),
}
"""Module of each command in `jobs.cli`, and how it is added, in the order of the help."""


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


def _app_of(names: Collection[str]) -> typer.Typer:
    built = typer.Typer(
        name="jobs",
        help="Distributed batch inference: a Parquet dataset of prompts in, every row's result out, exactly once.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        module, add = _COMMANDS[name]
        add(built, name, import_module(f"jobs.cli.{module}"))
    built.callback()(_options)
    return built


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
    whole = typer.main.get_command(_app_of([called]) if called in _COMMANDS else _whole_app())
    present(whole)
    return whole
