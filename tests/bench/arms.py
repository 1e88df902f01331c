"""Processes that run arms of the benchmark on request: an engine starts once, and arms can take turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ANSWER = "ARM-ANSWER "
"""Before an answer: engines print to stdout, too."""


def serve(ready: dict[str, Any], run: Callable[[str, Path], dict[str, Any]]) -> None:
    """Answer requests `ARM DATASET` on standard input until it closes.

    Args:
        ready: what is said once at the beginning, such as how long the engine took to start.
    """
    _say(ready)
    for line in sys.stdin:
        arm, _, dataset = line.strip().partition(" ")
        _say(run(arm, Path(dataset)))


class Arms:
    """A process that serves arms.

    Attributes:
        ready: what it said at the beginning.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.ready = self._answer()

    def run(self, arm: str, dataset: Path) -> dict[str, Any]:
        """One arm over one dataset.

        Raises:
            RuntimeError: the process has ended; see its log.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{arm} {dataset}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                found: dict[str, Any] = json.loads(line.removeprefix(_ANSWER))
                return found
        raise RuntimeError(f"an arm's process ended with {self._process.wait()}")


def _say(answer: dict[str, Any]) -> None:
    print(_ANSWER + json.dumps(answer), flush=True)
