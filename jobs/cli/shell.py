"""`jobs shell-init`: make bare `jobs` reach this program."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.output import Output
from jobs.errors import UsageError


def shell_init(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print a shell function that makes `jobs` a short name of `batchjobs`, and completion for both.

    `jobs` is a builtin of the shell, so it never reaches a program of that name. The function sends known
    commands to this program and everything else to the builtin. Scripts do not see it: they say `batchjobs`.
    The examples go into ~/.bashrc, ~/.zshrc (after compinit) and ~/.config/fish/config.fish.

    Examples:

      eval "$(batchjobs shell-init bash)"

      eval "$(batchjobs shell-init zsh)"

      batchjobs shell-init fish | source
    """
    from jobs.shell import SHELLS, function

    if shell not in SHELLS:
        raise UsageError(f"There is no shell function for {shell!r}.", hint=f"Give one of: {', '.join(SHELLS)}.")
    Output().text(function(shell))
