"""Every command line that the files of `deploy/` run or tell people to run."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from jobs.cli import main
from jobs.settings import PREFIX, Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAMS = ("jobs", "batchjobs", "/opt/nightbatch/bin/batchjobs")
_OTHER_VARIABLES = {"JOBS_STATE_DIR"}
_SCRIPT_LINE = r"^[ \t]*(?:srun .* |\S+=\S+ )?((?:jobs|batchjobs) [a-z].*)$"
_WITH_SCRIPTS = (".md", ".yaml", ".sbatch", ".sh")


def files() -> list[Path]:
    """Return all text files of `deploy/`."""
    return sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in (".json", ".png"))


def found_in(path: Path) -> Iterator[list[str]]:
    """Yield the program's command lines in one file: container commands, entry points, ExecStart, CMD, and comments."""
    text = path.read_text()
    if path.suffix in (".yaml", ".yml") and path.name != "alerts.yml":
        for document in yaml.safe_load_all(text):
            yield from _in_manifest(document)
    for line in re.findall(r"^(?:ExecStart|ExecStop)=(.*)$", text, re.MULTILINE):
        yield shlex.split(line.replace("%i", "nightly"))
    for line in re.findall(r"^(?:CMD|ENTRYPOINT) (\[.*\])$", text, re.MULTILINE):
        yield yaml.safe_load(line)
    for line in re.findall(r"^#(?: +|.*: )((?:jobs|batchjobs) [a-z].*)$", text, re.MULTILINE):
        yield shlex.split(line.partition(" #")[0])
    for quoted in re.findall(r"`((?:jobs|batchjobs) [^`]*)`", text):
        yield shlex.split(quoted)
    if path.suffix in _WITH_SCRIPTS:
        yield from _in_script(text)


def _in_script(text: str) -> Iterator[list[str]]:
    """Yield the program's calls in shell: in scripts, in block scalars of manifests, in indented blocks of pages."""
    for line in re.findall(_SCRIPT_LINE, text.replace("\\\n", " "), re.MULTILINE):
        yield shlex.split(re.split(r" (?:#|\||>|&&|\|\|) ", line)[0])


def _in_manifest(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "command" and isinstance(value, list):
                yield [*value, *node.get("args", [])]
            elif key == "entrypoint" and isinstance(value, str):
                yield shlex.split(value)
            else:
                yield from _in_manifest(value)
    elif isinstance(node, list):
        for value in node:
            yield from _in_manifest(value)


def check(words: list[str]) -> None:
    """Parse a command line with the program's own parser, without running it; `…` stands for a value to fill in.

    Raises:
        AssertionError: there is no such command, or it has no such option.
    """
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        # The parser looks at every word before it reaches --help.
        code = main([*(word for word in words[1:] if "…" not in word), "--help"])
    assert code == 0, f"{shlex.join(words)}: {said.getvalue()}"


def unknown_variables(path: Path) -> set[str]:
    """Return the names of our environment variables in a file that belong to no setting."""
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text()))
    return named - {PREFIX + name.upper() for name in Settings.model_fields} - _OTHER_VARIABLES
