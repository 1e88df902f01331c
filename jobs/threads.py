"""Work that waits, in several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_A = TypeVar("_A")
_R = TypeVar("_R")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that an error does not wait for: of a store that has gone silent, one silence is enough."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def in_threads(count: int, function: Callable[[_A], _R], items: Iterable[_A]) -> list[_R]:
    """What the function gives for each item, in order, `count` of them at once. The first error is raised."""
    with threads(count) as pool:
        return list(pool.map(function, items))
