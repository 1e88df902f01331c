"""The shell function that makes bare `jobs` reach this program, although `jobs` is a shell builtin, and completion."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

SHELLS = ("bash", "zsh", "fish")
MARK = "JOBS_SHELL_FUNCTION"
"""Variable set to 1 in calls through the function, so that `jobs doctor` can detect it."""

_OPTIONS = ("-h", "--help", "--version", "--debug", "--install-completion", "--show-completion")

_POSIX = """jobs() {{
  case "${{1-}}" in
    {words})
      {mark}=1 {program} "$@" ;;
    *)
      builtin jobs "$@" ;;
  esac
}}
"""

_BASH = """_jobs_complete() {{
  local IFS=$'\\n'
  COMPREPLY=( $( COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD=$COMP_CWORD _JOBS_COMPLETE=complete_bash {program} ) )
}}
complete -o default -F _jobs_complete jobs batchjobs
"""

_ZSH = """_jobs_complete() {{
  eval "$(_TYPER_COMPLETE_ARGS="${{words[1,$CURRENT]}}" _JOBS_COMPLETE=complete_zsh {program})"
}}
if (( $+functions[compdef] )); then compdef _jobs_complete jobs batchjobs; fi
"""

_FISH = """function jobs
  if contains -- "$argv[1]" {words}
    {mark}=1 {program} $argv
  else
    builtin jobs $argv
  end
end
for name in jobs batchjobs
  complete --command $name --no-files \\
    --arguments '(_JOBS_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \\
      _TYPER_COMPLETE_ARGS=(commandline -cp) {program})' \\
    --condition '_JOBS_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args \\
      _TYPER_COMPLETE_ARGS=(commandline -cp) {program}'
end
"""


def function(commands: Iterable[str], shell: str = "bash") -> str:
    """Return the source of the function, and of completion for `jobs` and `batchjobs`.

    Calls whose first word is one of `commands` go to the program, by the path of the Python that runs
    now; all others (`jobs`, `jobs -l`, `jobs %1`) go to the builtin. In bash, `command jobs` would still
    find the builtin: it skips functions only.
    """
    words = [*sorted(commands), *_OPTIONS]
    # -P keeps Python from importing a `jobs` folder of the working directory in place of this program.
    program = f"{shlex.quote(sys.executable)} -P -m jobs"
    if shell == "fish":
        return _FISH.format(words=" ".join(words), mark=MARK, program=program)
    text = _POSIX.format(words="|".join(words), mark=MARK, program=program)
    return text + (_ZSH if shell == "zsh" else _BASH).format(program=program)
