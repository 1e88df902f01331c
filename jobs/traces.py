"""Errors in logs and messages, without what may quote a row: Arrow, pydantic and others put values into theirs."""

from __future__ import annotations

import logging
import os
import re
import traceback
from types import TracebackType

from jobs.errors import JobsError

_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')
_OWN_PACKAGES = ("jobs", "workers", "schemas")


def describe(error: BaseException) -> str:
    """Describe an error by its type, and by its message if that is known not to quote a row; else by its place."""
    name = type(error).__name__
    if isinstance(error, JobsError):
        return f"{name}: {error.message}"
    if isinstance(error, ImportError) and error.name:
        return f"{name}: {error.name}"
    if type(error).__module__.startswith("workers."):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: {os.strerror(error.errno)}" + (f": {error.filename}" if error.filename else "")
    frames = _frames(error)
    ours = [frame for frame in frames if _package(frame[0])] or frames
    return f"{name} in {os.path.basename(ours[-1][0])}, line {ours[-1][1]}" if ours else name


def trace(error: BaseException) -> str:
    """Format the traceback of an error and of those that led to it: places and types, without messages and code."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"{trace(cause)}\nwhich led to:\n" if cause is not None else ""
    places = [f'  File "{path}", line {line}, in {function}' for path, line, function in _frames(error)]
    return before + "\n".join([*places, describe(error)])


def hide_messages_in_logs() -> None:
    """Make every logger of this process format the tracebacks of errors with `trace`."""
    logging.Formatter.formatException = _format_exception  # type: ignore[method-assign,assignment]


def _format_exception(
    self: logging.Formatter,
    info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    return "" if info[1] is None else trace(info[1])


def _frames(error: BaseException) -> list[tuple[str, str, str]]:
    """Return path, line and function of each frame; Ray has those of a task in its error's message."""
    frames = [(each.filename, str(each.lineno), each.name) for each in traceback.extract_tb(error.__traceback__)]
    remote = _FRAME.findall(str(error)) if type(error).__module__.startswith("ray.") else []
    return frames + remote


def _package(path: str) -> str:
    parts = path.split(os.sep)
    return next((part for part in reversed(parts[:-1]) if part in _OWN_PACKAGES), "")
