"""Ending a command on a signal: at once, with one line on the state it leaves, and with no temporary files left behind.

`run` gives a command a thread of its own and keeps the main thread for signals. The command is not unwound: nothing
that it waits for (a store, a decoder, a query) can delay its end, no library can swallow the interruption, and there
is no traceback. Code that makes something temporary registers it as a `leftover`; the objects of a job directory need
no such care, since each is complete or absent whenever a process is killed.
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

from jobs.shell import as_called

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_PROMPTLY_S = 0.3
"""Longest wait for the lock, and for clearing the terminal's live display."""

_CLEANING_S = 1.2
"""Longest time to remove all leftovers, so that a command ends within two seconds of a signal."""

_lock = threading.RLock()
"""Held for ever once a signal ends the process, so that threads that ask for it stop there."""

_leftovers: dict[object, Callable[[], object]] = {}
_on_screen: dict[object, Callable[[], object]] = {}
_standing = ""


def run(command: Callable[[], int], *, last: bool = False) -> int:
    """Run a command so that a signal ends the process; pass on its return value or exception.

    A signal that this process was started to ignore (`nohup`, a script's `&`) stays ignored.

    Args:
        last: the process does nothing after the command. The handlers then stay in place, and the process does not
            wait for threads that are still blocked.
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
    """Set the text that a signal prints from now on: the state that the command leaves, in one or two sentences."""
    global _standing
    text = as_called(text)
    with _lock:
        _standing = text


@contextmanager
def leftover(remove: Callable[[], object], *, on_screen: bool = False) -> Iterator[None]:
    """Call `remove` if a signal ends the command within the block; otherwise the block must clean up itself.

    `remove` runs in a thread of its own while the block goes on. The block must create things within `at_once`, so that
    it creates nothing after the removal.

    Args:
        on_screen: it is on the terminal's display, and must be removed before the last line is printed.
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
    """Run the block as a whole: a signal neither interrupts it nor lets it start afterwards. Keep it short."""
    with _lock:
        yield


def remove_folder(path: Path) -> None:
    """Remove a folder in which files are still being made. It is renamed first, so that none can be added."""
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
    """Print the last line of this process; discard what its other threads print later."""
    how = "Interrupted." if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}."
    # A terminal shows ^C for Ctrl-C; start the line over it.
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
    """Reset the lock and the leftovers in a child, which has neither the parent's threads nor its leftovers."""
    global _lock
    _lock = threading.RLock()
    _leftovers.clear()
    _on_screen.clear()


os.register_at_fork(after_in_child=_after_fork)
