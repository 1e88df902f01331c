"""Child processes that decode untrusted bytes, with limits on memory and time.

We cannot promise what a library does with damaged or malicious bytes: it may ask for all memory, compute forever,
crash or hang. Then only a child process ends, and the caller can say which file caused it. The kernel enforces the
limits on memory and CPU time (`setrlimit`), so they hold even for a child whose parent has died; the waiting parent
detects a child that hangs.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, TypeVar

MEMORY_BYTES = 6 * 2**30
"""Address space for decoding on top of the program's own. An ordinary batch takes less than a tenth of it, a cell
of 1 GiB most of it: Arrow reserves twice the space whenever a buffer is full, and uses half of that."""

CPU_S = 300
"""Most CPU seconds for one answer."""

STILL_S = 120.0
"""Seconds without any CPU time after which a child that owes an answer counts as hung. A child that waits for the
object store uses CPU more often: its requests time out and are sent again."""

IDLE_S = 30.0
"""Seconds without work after which a child ends: a large node has many workers, each with its own children."""

_NUM_THREADS = 16

_VALUE, _END, _ERROR, _MEMORY = "value", "end", "error", "memory"
_T = TypeVar("_T")


class DecoderEnded(Exception):
    """The child process ended in the middle of its work. The message is a predicate that follows a file's name."""


def stream(
    function: Callable[..., Iterator[_T]], *arguments: Any, cpu_s: float = CPU_S, memory_bytes: int | None = None
) -> Iterator[_T]:
    """Yield the values of `function(*arguments)`, computed in a child process with this process's environment.

    Function, arguments, values and errors are pickled. A child is reused once it has answered completely.

    Args:
        cpu_s: most CPU seconds before each value.
        memory_bytes: most address space; default: `MEMORY_BYTES`.

    Raises:
        DecoderEnded: the child exceeded its memory or time, hung or crashed.
        Exception: any exception that the function raised.
    """
    memory_bytes = memory_bytes or MEMORY_BYTES
    request = pickle.dumps((dict(os.environ), function, arguments, memory_bytes, cpu_s))
    child = _idle_child(request) or _Child()
    may_end_idle = child.asked
    try:
        if not child.asked:
            child.ask(request)
        while True:
            try:
                kind, value = child.answer(memory_bytes)
            except _EndedInOrder as ended:
                if not may_end_idle:
                    raise DecoderEnded(_last_words(0, memory_bytes)) from ended
                # It had been idle for so long that it ended just as it was asked.
                child, may_end_idle = _Child(), False
                child.ask(request)
                continue
            may_end_idle = False
            if kind == _VALUE:
                yield value
                continue
            if kind != _MEMORY:
                child.asked = False
                _IDLE.setdefault(os.getpid(), []).append(child)
            break
    finally:
        if child.asked:
            child.kill()
    if kind == _MEMORY:
        raise DecoderEnded(_too_large(memory_bytes))
    if kind == _ERROR:
        raise value


def prepare(idle_s: float | None = IDLE_S) -> None:
    """Start a child for a `stream` to come: it imports what it needs while this process does something else.

    Args:
        idle_s: the child ends after so long without work; None: with this process.
    """
    with suppress(OSError):  # told by `stream`, which tries it again
        _IDLE.setdefault(os.getpid(), []).append(_Child(idle_s))


class _EndedInOrder(Exception):
    """The child has ended with exit code 0, as one does that was idle for `IDLE_S`."""


class _Child:
    """The parent's end of one child process."""

    def __init__(self, idle_s: float | None = IDLE_S) -> None:
        theirs, ours = os.pipe()
        answers, results = os.pipe()
        path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
        self._process = subprocess.Popen(
            # -P: no imports from the working directory, which may hold anything.
            [sys.executable, "-P", "-m", __name__, str(theirs), str(results), "" if idle_s is None else str(idle_s)],
            pass_fds=(theirs, results),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A library's error output may quote the data.
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **_ALLOCATORS},
            start_new_session=True,
        )
        os.close(theirs)
        os.close(results)
        self._requests, self._answers = Connection(ours, readable=False), Connection(answers, writable=False)
        self.asked = False

    def ask(self, request: bytes) -> None:
        """Send a request; raise OSError if the child has ended, as an idle one does."""
        self._requests.send_bytes(request)
        self.asked = True

    def answer(self, memory_bytes: int) -> tuple[str, Any]:
        """Return the next answer's kind and value; raise DecoderEnded or _EndedInOrder if there is none."""
        used_ns = -1
        while not self._answers.poll(STILL_S):
            before_ns, used_ns = used_ns, _cpu_ns(self._process.pid)
            if used_ns == before_ns:
                self.kill()
                raise DecoderEnded(f"makes its decoder stand still: it has not computed for {STILL_S:g} s")
        try:
            kind, value = pickle.loads(self._answers.recv_bytes())  # noqa: S301 - from a process of ours
        except (EOFError, OSError) as error:
            if (code := self._process.wait()) == 0:
                raise _EndedInOrder from error
            raise DecoderEnded(_last_words(code, memory_bytes)) from error
        return kind, value

    def kill(self) -> None:
        """End the child. Connections close with this object: in garbage collection, closing here could repeat that."""
        self._process.kill()
        self._process.wait()


_ALLOCATORS = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Allocator settings for limited address space: Arrow's own allocators reserve 1 GiB for the first byte, further malloc
arenas reserve less. The system allocator returns freed memory at once."""

_IDLE: dict[int, list[_Child]] = {}
"""Idle children by the pid of their parent: a forked process must not use its parent's children."""


def _idle_child(request: bytes) -> _Child | None:
    """Give the request to an idle child and return that child, or None if there is none."""
    with suppress(IndexError):
        while True:
            child = _IDLE.setdefault(os.getpid(), []).pop()
            try:
                child.ask(request)
            except OSError:
                child.kill()
            else:
                return child
    return None


def _cpu_ns(pid: int) -> int:
    """Return the CPU nanoseconds of all threads of a process. Even a thread that wakes briefly is seen."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    except OSError:  # a thread or the process has just ended, or this system has no such file
        return time.monotonic_ns()


def _too_large(memory_bytes: int) -> str:
    return f"needs more than {memory_bytes / 2**30:g} GiB of memory to decode"


def _last_words(code: int, memory_bytes: int) -> str:
    if code == -signal.SIGXCPU:
        return "takes too long to decode"
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        return _too_large(memory_bytes)
    return f"makes its decoder crash (exit code {code})"


# -- the child process --------------------------------------------------------------------------

threads: ThreadPoolExecutor
"""Threads of a child, started before its limits apply. A thread started without free memory may die before it signals
its start, and the starting thread then waits forever (https://github.com/python/cpython/issues/140746)."""


def _start_threads() -> None:
    global threads
    threads = ThreadPoolExecutor(_NUM_THREADS)
    # Each task waits for all others, so that the pool must start every thread.
    together = Barrier(_NUM_THREADS)
    list(threads.map(lambda _: together.wait(), range(_NUM_THREADS)))


def _serve(requests: Connection, answers: Connection, idle_s: float | None) -> None:
    """Answer requests until the parent is gone or sends none for so long."""
    import resource

    import psutil
    import pyarrow as pa

    from jobs.values.arrow import leave_pandas_out

    Thread(target=_end_with, args=(requests,), daemon=True).start()
    leave_pandas_out()
    pa.set_io_thread_count(1)
    pa.set_cpu_count(1)
    own_bytes = 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _start_threads()
    while requests.poll(idle_s):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        environment, function, arguments, memory_bytes, cpu_s = pickle.loads(requests.recv_bytes())  # noqa: S301 - our parent's
        os.environ.clear()
        os.environ.update(environment)
        # Only now: unpickling has imported what the function needs.
        own_bytes = own_bytes or psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (own_bytes + memory_bytes, resource.RLIM_INFINITY))
        _limit_time(cpu_s)
        try:
            for value in function(*arguments):
                answers.send_bytes(pickle.dumps((_VALUE, value)))
                _limit_time(cpu_s)
            answer: tuple[str, Any] = (_END, None)
        except MemoryError:
            answers.send_bytes(pickle.dumps((_MEMORY, None)))
            return
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            answer = (_ERROR, error)
        answers.send_bytes(pickle.dumps(answer))


def _end_with(requests: Connection) -> None:
    """End the process, even in the middle of work, when the requests' other end closes: the parent has died."""
    waiting = select.poll()
    waiting.register(requests, 0)  # Wake only when the other end closes, not when there is something to read.
    waiting.poll()
    os._exit(0)


def _limit_time(cpu_s: float) -> None:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    from jobs.dataset import decoder  # this module under the name that its callers pickle

    _, theirs, results, idle_s = sys.argv
    with suppress(EOFError, BrokenPipeError):
        decoder._serve(
            Connection(int(theirs), writable=False),
            Connection(int(results), readable=False),
            float(idle_s) if idle_s else None,
        )
