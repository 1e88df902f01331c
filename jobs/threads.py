"""Thread pools for work that mostly waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_A = TypeVar("_A")
_R = TypeVar("_R")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Open a thread pool that does not wait for its threads after an error: a silent store must time out only once."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def in_threads(count: int, function: Callable[[_A], _R], items: Iterable[_A]) -> list[_R]:
    """Map the function over the items, `count` at once; return results in order. The first error is raised."""
    with threads(count) as pool:
        return list(pool.map(function, items))
