"""Decoders of hostile bytes run in a process of their own, with limits on memory and time.

What a library does with damaged or malicious bytes is not ours to promise: it may ask for all memory, compute for
ever, crash or stand still. Then it is a child process that ends, and whoever asked can say which file did it. The
limits on memory and computing are the kernel's (`setrlimit`), so they hold for a child whose parent has died; that a
child stands still is seen by whoever waits for it.
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
"""Address space that decoding may take on top of the program's own. An ordinary batch takes less than a tenth of it,
a cell of 1 GiB most: Arrow asks for twice the room whenever a buffer is full, and uses half of that."""

CPU_S = 300
"""Seconds of computing that one answer may take."""

STILL_S = 120.0
"""A child that owes an answer and has not computed at all for this long stands still. One that waits for the object
store computes more often: its requests time out and are sent again."""

IDLE_S = 30.0
"""A child without work for this long ends: a large node has many workers, each with its own."""

_NUM_THREADS = 16

_VALUE, _END, _ERROR, _MEMORY = "value", "end", "error", "memory"
_T = TypeVar("_T")


class DecoderEnded(Exception):
    """The child process has ended in the midst of its work. The message goes behind a file's name."""


def stream(
    function: Callable[..., Iterator[_T]], *arguments: Any, cpu_s: float = CPU_S, memory_bytes: int | None = None
) -> Iterator[_T]:
    """What `function(*arguments)` yields, computed in a child process with this process's environment variables.

    Function, arguments, values and errors are pickled. A child is used again after it has answered to the end.

    Args:
        cpu_s: most seconds of computing before each value.
        memory_bytes: most address space; default: `MEMORY_BYTES`.

    Raises:
        DecoderEnded: it needed more memory or time than it may have, stood still or crashed.
        Exception: what the function raised.
    """
    memory_bytes = memory_bytes or MEMORY_BYTES
    request = pickle.dumps((dict(os.environ), function, arguments, memory_bytes, cpu_s))
    child = _idle_child(request) or _Child()
    try:
        if not child.asked:
            child.ask(request)
        while True:
            kind, value = child.answer(memory_bytes)
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


class _Child:
    """The parent's end of one child process."""

    def __init__(self) -> None:
        theirs, ours = os.pipe()
        answers, results = os.pipe()
        path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
        self._process = subprocess.Popen(
            # -P: not from the working directory, where anything may lie.
            [sys.executable, "-P", "-m", __name__, str(theirs), str(results)],
            pass_fds=(theirs, results),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A library's last words may quote what it read.
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **_ALLOCATORS},
            start_new_session=True,
        )
        os.close(theirs)
        os.close(results)
        self._requests, self._answers = Connection(ours, readable=False), Connection(answers, writable=False)
        self.asked = False

    def ask(self, request: bytes) -> None:
        """Raises OSError if the child has ended, as an idle one does."""
        self._requests.send_bytes(request)
        self.asked = True

    def answer(self, memory_bytes: int) -> tuple[str, Any]:
        """Raises DecoderEnded if there is none."""
        used_ns = -1
        while not self._answers.poll(STILL_S):
            before_ns, used_ns = used_ns, _cpu_ns(self._process.pid)
            if used_ns == before_ns:
                self.kill()
                raise DecoderEnded(f"makes its decoder stand still: it has not computed for {STILL_S:g} s")
        try:
            kind, value = pickle.loads(self._answers.recv_bytes())  # noqa: S301 - from a process of ours
        except (EOFError, OSError) as error:
            raise DecoderEnded(_last_words(self._process.wait(), memory_bytes)) from error
        return kind, value

    def kill(self) -> None:
        """The connections close with this object: where a collector ends both, closing here would be a second time."""
        self._process.kill()
        self._process.wait()


_ALLOCATORS = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Address space is limited: Arrow's own allocators reserve 1 GiB for the first byte, further arenas of malloc less. Of
the system's, what is freed goes back at once."""

_IDLE: dict[int, list[_Child]] = {}
"""Children without work, by the process that they belong to: a fork must not use its parent's."""


def _idle_child(request: bytes) -> _Child | None:
    """A child that was idle and has this request now, or None."""
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
    """Nanoseconds that all threads of a process have computed. A thread that wakes up for a moment is seen."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    except OSError:  # a thread or the process has just ended, or this system does not tell
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
"""A child's threads, started before it has limits. A thread that is started without memory may die before it says that
it has started, and then whoever starts it waits for ever (https://github.com/python/cpython/issues/140746)."""


def _start_threads() -> None:
    global threads
    threads = ThreadPoolExecutor(_NUM_THREADS)
    # Each waits for all others, so that none takes the start of two.
    together = Barrier(_NUM_THREADS)
    list(threads.map(lambda _: together.wait(), range(_NUM_THREADS)))


def _serve(requests: Connection, answers: Connection) -> None:
    """Answer requests until the parent is gone or has nothing to ask for a while."""
    import resource

    import psutil
    import pyarrow as pa

    Thread(target=_end_with, args=(requests,), daemon=True).start()
    pa.set_io_thread_count(1)
    pa.set_cpu_count(1)
    own_bytes = 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _start_threads()
    while requests.poll(IDLE_S):
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
    """End in the midst of work if the other end of the requests closes: whoever asked has died."""
    waiting = select.poll()
    waiting.register(requests, 0)  # Only that the other end has closed, not that there is something to read.
    waiting.poll()
    os._exit(0)


def _limit_time(cpu_s: float) -> None:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    from jobs.dataset import decoder  # this module, as those that it serves know it

    with suppress(EOFError, BrokenPipeError):
        decoder._serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False))
