"""How a signal ends a command: at once, with one line that says what stands, and with nothing left behind.

`run` gives a command a thread of its own and leaves the main thread to the signals. The command is not unwound: nothing
that it waits for (a store, a decoder, a query) can hold up its end, no library can swallow the interruption, and there
is no traceback. What must not stay is named where it is made, as a `leftover`; the objects of a job directory need no
such care, since they are whole or not there whenever a process is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_PROMPTLY_S = 0.3
"""What changes hands in a moment, and a terminal's picture, may take this long."""

_CLEANING_S = 1.2
"""Removing all that must not stay may take this long in all; a command ends within two seconds of a signal."""

_lock = threading.RLock()
"""Held for ever once a signal ends the process: whoever wants it then goes no further."""

_leftovers: dict[object, Callable[[], object]] = {}
_on_screen: dict[object, Callable[[], object]] = {}
_standing = ""


def run(command: Callable[[], int], *, last: bool = False) -> int:
    """Run a command so that a signal ends the process; what it returns or raises is passed on.

    A signal that this process was started to ignore (`nohup`, a script's `&`) stays ignored.

    Args:
        last: the process does nothing after it. Then the signals stay in force, and threads that still wait for
            something are not waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        return command()
    stands("Nothing was changed.")
    taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _end) for number in taken}
    try:
        code = _in_a_thread(command)
    finally:
        if not last:
            for number, handler in before.items():
                signal.signal(number, handler)
    if last and any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        _flush()
        os._exit(code)
    return code


def stands(text: str) -> None:
    """Say what stands if a signal ends the command from now on: one sentence or two, for people."""
    global _standing
    with _lock:
        _standing = text


@contextmanager
def leftover(remove: Callable[[], object], *, on_screen: bool = False) -> Iterator[None]:
    """Have something removed if a signal ends the command within the block; otherwise the block sees to it.

    `remove` runs beside the block, in a thread of its own. So that the block makes nothing after that, it makes things
    within `at_once`.

    Args:
        on_screen: it is part of what the terminal shows, to be removed before the last line is printed.
    """
    known, key = _on_screen if on_screen else _leftovers, object()
    with _lock:
        known[key] = remove
    try:
        yield
    finally:
        with _lock:
            del known[key]


@contextmanager
def at_once() -> Iterator[None]:
    """Steps that a signal never parts, and that are not begun after one. Keep them short."""
    with _lock:
        yield


def remove_folder(path: Path) -> None:
    """Remove a folder in which files are still being made: under another name, none can be added."""
    gone = path.with_name(f".{path.name}.{os.getpid()}.removed")
    with suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _in_a_thread(command: Callable[[], int]) -> int:
    codes: list[int] = []
    raised: list[BaseException] = []

    def target() -> None:
        try:
            codes.append(command())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            raised.append(error)

    thread = threading.Thread(target=target, name="command", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return codes[0]


def _end(number: int, _: FrameType | None) -> NoReturn:
    """End the process. Runs in the main thread, beside the command."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    _lock.acquire(timeout=_PROMPTLY_S)
    _remove_all(_on_screen, _PROMPTLY_S)
    _say(number)
    _remove_all(_leftovers, _CLEANING_S)
    os._exit(128 + number)


def _remove_all(known: dict[object, Callable[[], object]], within_s: float) -> None:
    threads = [threading.Thread(target=_remove, args=(each,), daemon=True) for each in known.copy().values()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _remove(remove: Callable[[], object]) -> None:
    with suppress(Exception):
        remove()


def _say(number: int) -> None:
    """Print the last line of this process; what its other threads still print goes nowhere."""
    how = "Interrupted." if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}."
    # A terminal shows ^C for Ctrl-C; the line begins over it.
    start = "\r" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{start}{how} {_standing}\n".encode())
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _after_fork() -> None:
    """A child has neither the parent's threads nor its leftovers."""
    global _lock
    _lock = threading.RLock()
    _leftovers.clear()
    _on_screen.clear()


os.register_at_fork(after_in_child=_after_fork)
