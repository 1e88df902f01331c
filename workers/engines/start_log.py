"""Phases of vLLM's start, read from what it logs in the process that does the work.

Every process of an engine loads our plugin, which calls `listen`: a handler then appends what the lines tell of a phase
to a file of the replica.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "NIGHTBATCH_START_LOG"

_PHASES = (
    (re.compile(r"Loading weights took ([\d.]+) s"), "weights"),
    (re.compile(r"torch\.compile(?: and initial profiling/warmup run together)? took ([\d.]+) s"), "compilation"),
    (re.compile(r"Graph capturing finished in ([\d.]+) s"), "capture of CUDA graphs"),
    (re.compile(r"init engine \(.*\) took ([\d.]+) s"), "profiling, KV cache, warm-up"),
)
"""Lines of vLLM 0.26 to 0.32. One that another version words differently costs only its phase."""


class _Handler(logging.Handler):
    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            text = record.getMessage()
            for pattern, name in _PHASES:
                if found := pattern.search(text):
                    line = json.dumps([name, time.monotonic(), float(found[1])])
                    with open(self._path, "a", encoding="utf-8") as file:
                        file.write(f"{line}\n")


def listen() -> None:
    """Note the phases of this process from now on, if its parent asks for them."""
    logger = logging.getLogger("vllm")
    listening = any(isinstance(handler, _Handler) for handler in logger.handlers)
    if not listening and (path := os.environ.get(VARIABLE)):
        logger.addHandler(_Handler(path))


@contextmanager
def phases(report: Callable[[str, float, float], None]) -> Iterator[None]:
    """Report the phases of an engine that is started within this block, at its end.

    Args:
        report: called with a phase's name, its end on the monotonic clock, and the seconds that it took.
    """
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        path = Path(folder) / "phases.jsonl"
        os.environ[VARIABLE] = str(path)
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            with suppress(OSError, ValueError):
                for line in path.read_text(encoding="utf-8").splitlines():
                    report(*json.loads(line))
