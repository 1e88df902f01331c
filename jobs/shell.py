"""The shell function that makes bare `jobs` reach this program, although `jobs` is a shell builtin."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

SHELLS = ("bash", "zsh")
MARK = "JOBS_SHELL_FUNCTION"
"""Set to 1 in calls that came through the function, so that `jobs doctor` can tell."""


def function(commands: Iterable[str]) -> str:
    """Source of the function, the same for bash and zsh.

    Calls whose first word is one of `commands` go to the program, by the path of the Python that runs
    now; all others (`jobs`, `jobs -l`, `jobs %1`) go to the builtin. In bash, `command jobs` would still
    find the builtin: it skips functions only.
    """
    words = "|".join([*sorted(commands), "-h", "--help", "--version", "--debug"])
    # -P keeps a `jobs` folder of the working directory from being taken for this program.
    program = f"{shlex.quote(sys.executable)} -P -m jobs"
    return f"""jobs() {{
  case "${{1-}}" in
    {words})
      {MARK}=1 {program} "$@" ;;
    *)
      builtin jobs "$@" ;;
  esac
}}
"""
