"""The command line: `main` runs it and turns errors into exit codes; `app` holds the commands.

The commands are loaded when they are wanted: a signal that comes meanwhile is dealt with already.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from jobs import signals
from jobs.errors import Exit, JobsError, UsageError


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from jobs.cli.commands import app

    return app


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. A signal ends the process, see `jobs.signals`.

    Args:
        arguments: without the program's name; default: those of this process, which does nothing else.

    Returns:
        The exit code, see `jobs.errors.Exit`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    own = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in own
    given = [*(each for each in own if each != "--debug"), *given[len(own) :]]
    return signals.run(lambda: _run_and_report(given, debug), last=arguments is None)


def _run_and_report(arguments: list[str], debug: bool) -> int:
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as in `jobs list | head -1`. Python would complain again at its exit.
        _forget_streams()
        code = Exit.OK
    except JobsError as error:
        code = _report(error, debug)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: one line, not a page
        code = _report(_presentable(error), debug)
    return int(code)


def _run(arguments: list[str]) -> int:
    from jobs.cli.commands import command

    try:
        command(arguments)(arguments, prog_name=_program_name(arguments))
    except SystemExit as end:
        if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
            raise end.__context__ from None  # Typer and Rich make an exit code of it.
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return Exit.OK


def _program_name(arguments: list[str]) -> str:
    """Return the name for usage lines; completion asks, and is installed, under a bare name."""
    from jobs.shell import program

    asked = next((name for name in ("jobs", "batchjobs") if f"_{name.upper()}_COMPLETE" in os.environ), None)
    name = asked or program()
    return Path(name).name if {"--show-completion", "--install-completion"} & {*arguments} else name


def _forget_streams() -> None:
    """Lead stdout, and stderr if its reader has gone too, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(nowhere, 2)


def _report(error: JobsError, debug: bool) -> int:
    from jobs.cli.output import Output

    try:
        if debug:
            traceback.print_exc()
        Output().error(error)
    except (BrokenPipeError, SystemExit):
        _forget_streams()
    return error.exit_code


def _presentable(error: Exception) -> JobsError:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        from jobs.validation import problem, sentence

        return UsageError(sentence(problem(error)))
    from jobs.traces import describe

    return JobsError(f"Unexpected {describe(error)}.", hint="This is a fault of the program; --debug shows all of it.")
