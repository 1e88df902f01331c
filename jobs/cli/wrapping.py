"""Text for people on a terminal: broken between words, never within a command that they may copy."""

from __future__ import annotations

import re

from jobs.shell import COMMANDS, program


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """Break each line of a text at `width` cells; further lines are indented. Commands and addresses stay whole."""
    return "\n".join(_wrapped(line, width, indent) for line in text.split("\n"))


def _wrapped(line: str, width: int, indent: int) -> str:
    from rich.cells import cell_len

    if cell_len(line) + indent <= width:
        return line
    lines: list[str] = []
    current = line[: len(line) - len(line.lstrip())]
    for number, piece in enumerate(_pieces(line)):
        if number and indent + cell_len(f"{current} {piece}") > width:
            lines.append(current)
            current = piece
        else:
            current += f" {piece}" if number else piece
    return f"\n{' ' * indent}".join([*lines, current])


def _pieces(line: str) -> list[str]:
    """Split a line into words and whole commands."""
    # A command ends where the sentence goes on: at punctuation, or at its closing backtick.
    command = rf"{re.escape(program())} (?:{'|'.join(COMMANDS)})(?![\w-])[^`;,)]*?(?=[`;,)]|\. |\.?$)"
    return re.findall(rf"(?:`[^`]*`|{{{{.*?}}}}|{command}|\S)+", line)
