"""An event loop in virtual time, and simulated processes on it that can stop, go on and die at any step.

Everything is decided by one seed. Coroutines run as asyncio runs them; blocking code that the program hands to
threads runs in greenlets, so that it too can be held up, or killed, inside every request it makes.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from random import Random
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

_T = TypeVar("_T")

CURRENT: ContextVar[Process | None] = ContextVar("CURRENT", default=None)
"""The simulated process that is running; None for the world around the processes."""


class Killed(BaseException):
    """Unwinds the code of a dead process, which has no effect any more: each of its requests raises this."""


class Process:
    """Tasks and threads that stop, go on and die together. A stopped process is one under SIGSTOP.

    Attributes:
        log_handlers: handlers that the process's own code has attached; they see its lines alone.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop, self.name = loop, name
        self.log_handlers: list[logging.Handler] = []
        self.dead = self.stopped = False
        self.on_death: list[Callable[[], None]] = []
        self._backlog: deque[asyncio.Handle] = deque()
        self._tasks: list[_Task] = []
        self._threads: list[_Thread] = []

    def __repr__(self) -> str:
        return self.name

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in this process."""
        return self.loop.create_task(main, context=self._context())

    def thread(self, main: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run blocking code in this process."""
        return self._context().run(self.loop.run_in_executor, None, main)

    def call(self, make: Callable[[], _T]) -> _T:
        """Make a call in this process that neither waits nor blocks."""
        return self._context().run(make)

    def _context(self) -> Context:
        context = Context()
        context.run(CURRENT.set, self)
        return context

    def stop(self) -> None:
        """Stop the process: nothing of it runs until `resume`."""
        self.stopped = not self.dead

    def resume(self) -> None:
        """Go on where the process stopped; timers that expired meanwhile fire now."""
        self.stopped = False
        self.loop.ready.extend(self._backlog)
        self._backlog.clear()

    def kill(self) -> None:
        """Kill the process, as SIGKILL does."""
        if self.dead:
            return
        self.dead = True
        self.resume()
        for task in self._tasks:
            self.loop.call_soon(task.cancel)
        for thread in self._threads:
            self.loop.call_soon(thread.kill)
        for callback in self.on_death:
            callback()

    def hold(self, handle: asyncio.Handle) -> None:
        self._backlog.append(handle)

    def own(self, part: _Task | _Thread) -> None:
        """Register a task or thread of the process, so that it dies with it."""
        if isinstance(part, _Task):
            self._tasks.append(part)
        else:
            self._threads.append(part)

    @property
    def unwound(self) -> bool:
        """Return whether nothing of the process is left."""
        return all(task.done() for task in self._tasks) and all(thread.dead for thread in self._threads)


class Loop(asyncio.AbstractEventLoop):
    """Runs until nothing is left to do. Time passes only while everything waits."""

    def __init__(self, seed: int) -> None:
        self.ready: deque[asyncio.Handle] = deque()
        self.failures: list[str] = []
        self._random = Random(seed)
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._now = 0.0
        self._hub = getcurrent()

    def run(self, until_s: float) -> bool:
        """Run until nothing is left to do; return False if something still was at that time."""
        self._hub = getcurrent()
        events._set_running_loop(self)
        try:
            while True:
                while self.ready:
                    self._run(self.ready.popleft())
                if not self._timers:
                    return True
                if self._timers[0][0] > until_s:
                    self._now = until_s
                    return False
                when, _, timer = heapq.heappop(self._timers)
                if not timer.cancelled():
                    self._now = max(self._now, when)
                    self.ready.append(timer)
        finally:
            events._set_running_loop(None)

    def _run(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(CURRENT)  # type: ignore[attr-defined]
        if handle.cancelled():
            return
        if process is not None and process.stopped:
            process.hold(handle)
        else:
            handle._run()

    def wait(self, future: asyncio.Future[Any]) -> Any:
        """Block this thread until the future is settled; return its result."""
        thread = getcurrent()
        assert isinstance(thread, _Thread), "the program blocks its event loop with a request"
        return thread.wait(future)

    def sleep(self, seconds: float) -> None:
        """Block this thread for this many seconds."""
        future = self.create_future()
        self.call_later(seconds, _settle, future)
        self.wait(future)

    def around(self, delay_s: float, call: Callable[[], None]) -> None:
        """Make a call later, outside any process, whatever happens to the processes."""
        self.call_later(delay_s, call, context=Context())

    # -- asyncio's interface ----------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(self._hash(), loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        task = _Task(self._hash(), coro, loop=self, name=name, context=context)
        process = (context or copy_context()).get(CURRENT)
        if process is not None:
            process.own(task)
            if process.dead:
                self.call_soon(task.cancel)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future, process = self.create_future(), CURRENT.get()
        if process is not None and process.dead:
            future.set_exception(Killed())
            return future
        thread = _Thread(self._hub, partial(func, *args), future)
        if process is not None:
            process.own(thread)
        self.call_soon(thread.go)
        return future

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "never retrieved" not in context["message"] and not isinstance(error, Killed | asyncio.CancelledError):
            self.failures.append(f"{context['message']}: {error!r}")

    def _hash(self) -> int:
        """Draw a hash from the seed: sets of tasks iterate in the order of hashes, which must not be addresses."""
        return self._random.getrandbits(60)


class _Future(asyncio.Future):  # type: ignore[type-arg]
    def __init__(self, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Thread(greenlet):  # type: ignore[misc]
    """Blocking code that yields to the loop wherever it waits."""

    def __init__(self, hub: greenlet, work: Callable[[], Any], outcome: asyncio.Future[Any]) -> None:
        super().__init__(parent=hub)
        self.gr_context = copy_context()
        self._work, self._outcome = work, outcome
        self._awaited: asyncio.Future[Any] | None = None

    def run(self) -> None:
        try:
            result = self._work()
        except BaseException as error:
            if not self._outcome.done():
                self._outcome.set_exception(error)
        else:
            if not self._outcome.done():
                self._outcome.set_result(result)

    def go(self) -> None:
        if not self.dead and self._awaited is None:
            self.switch()

    def wait(self, future: asyncio.Future[Any]) -> Any:
        process = CURRENT.get()
        if process is not None and process.dead:
            raise Killed
        self._awaited = future
        future.add_done_callback(self._wake)
        self.parent.switch()
        self._awaited = None
        if process is not None and process.dead:
            raise Killed
        return future.result()

    def kill(self) -> None:
        if self.dead:
            return
        if self._awaited is None:  # it has not begun
            self.throw(Killed)
            if not self._outcome.done():
                self._outcome.set_exception(Killed())
        else:
            self.throw(Killed)

    def _wake(self, future: asyncio.Future[Any]) -> None:
        if not self.dead and self._awaited is future:
            self.switch()


def _settle(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
