"""The program's names: `batchjobs` everywhere, and `jobs` where a shell function leads it past the shell's builtin.

Texts in the source say `jobs status X`; `as_called` gives them the name that works where they are read.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

COMMANDS = (
    "cancel",
    "cluster",
    "compare",
    "config",
    "delete",
    "doctor",
    "eval",
    "export",
    "list",
    "lm-eval",
    "logs",
    "model",
    "pause",
    "plan",
    "pool",
    "preview",
    "prune",
    "report",
    "results",
    "resume",
    "retry",
    "schedule",
    "serve",
    "shell-init",
    "sql",
    "status",
    "submit",
    "ui",
    "wait",
    "watch",
)
"""All commands, sorted. They stand here and not in `jobs.cli`, because messages are printed before that is loaded."""

SHELLS = ("bash", "zsh", "fish")
MARK = "JOBS_SHELL_FUNCTION"
"""Variable set to 1 in calls through the function: the program then calls itself `jobs` in what it prints."""

_CALL = re.compile(
    # What a command follows: a line's start, a backtick, punctuation, or a variable that is set for it.
    rf"(^\s*|[`(]|[:;→|&]\s|\b[A-Z_]+=\S+\s)jobs(?= (?:{'|'.join(COMMANDS)})(?![\w-]))",
    re.MULTILINE,
)

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


def program() -> str:
    """Return the name or the path, quoted, by which a person can call this program again.

    `jobs` under the shell function, `batchjobs` if that is on PATH, else the path that was typed.
    """
    if os.environ.get(MARK):
        return "jobs"
    called = Path(sys.argv[0])
    if called.name in ("batchjobs", "jobs") and called.parent != Path():
        found = shutil.which("batchjobs")
        if found is None or Path(found).parent.resolve() != called.parent.resolve():
            return shlex.quote(str(called))
    return "batchjobs"


def as_called(text: str, name: str | None = None) -> str:
    """Replace `jobs` by `program()` wherever a text tells a person to type one of the commands.

    Args:
        name: instead of `program()`, where the text is read elsewhere than in this program's terminal.
    """
    name = name or program()
    return _CALL.sub(lambda found: found[1] + name, text)


def function(shell: str = "bash") -> str:
    """Return the source of the function, and of completion for `jobs` and `batchjobs`.

    Calls whose first word is one of `COMMANDS` go to the program, by the path of the Python that runs
    now; all others (`jobs`, `jobs -l`, `jobs %1`) go to the builtin. In bash, `command jobs` would still
    find the builtin: it skips functions only.
    """
    words = [*COMMANDS, *_OPTIONS]
    # -P keeps Python from importing a `jobs` folder of the working directory in place of this program.
    program = f"{shlex.quote(sys.executable)} -P -m jobs"
    if shell == "fish":
        return _FISH.format(words=" ".join(words), mark=MARK, program=program)
    text = _POSIX.format(words="|".join(words), mark=MARK, program=program)
    return text + (_ZSH if shell == "zsh" else _BASH).format(program=program)
