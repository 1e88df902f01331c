"""Help texts as they are shown: under the name by which the program was called, with examples that can be copied."""

from __future__ import annotations

import inspect
import re
import shutil
from typing import Any

from jobs.shell import as_called, program

_MARGIN = 4
_WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\S)+")


def present(command: Any) -> None:
    """Change the help of a command, of its parameters and of the commands below it."""
    width = shutil.get_terminal_size().columns - _MARGIN
    if command.help:
        paragraphs = _shown(inspect.cleandoc(command.help)).split("\n\n")
        command.help = "\n\n".join(_paragraph(each, width) for each in paragraphs)
    for parameter in command.params:
        if text := getattr(parameter, "help", None):
            parameter.help = _shown(text)
    for below in getattr(command, "commands", {}).values():
        present(below)


def _shown(text: str) -> str:
    """Put in the program's name; keep `nightbatch[sql]`, which Rich would take for markup."""
    return re.sub(r"(?<!\\)\[(?=[a-z@#/])", r"\\[", as_called(text))


def _paragraph(text: str, width: int) -> str:
    """Rejoin a paragraph; continue an example that is too long for a line as a shell does, so that it can be copied."""
    if not re.match(rf"\s*(?:{re.escape(program())} |batchjobs |eval |[A-Za-z_]+=)", text):
        return " ".join(text.split())
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1].strip() and len(lines[-1]) + len(word) + len("  \\") > width:
            lines.append("  ")
        lines[-1] += (" " if lines[-1].strip() else "") + word
    return " \\\n".join(lines)
