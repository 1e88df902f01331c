"""A decoder's child that ends of idleness just as it is asked costs nothing but a new child."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from jobs.dataset import decoder
from jobs.dataset.decoder import DecoderEnded


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def ends_in_order() -> Iterator[int]:
    import os

    yield 1
    os._exit(0)


def own_pid() -> Iterator[int]:
    import os

    yield os.getpid()


def test_the_first_question_goes_to_the_child_that_was_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_IDLE", {})
    decoder.prepare()
    ((child,),) = decoder._IDLE.values()
    assert list(decoder.stream(own_pid)) == [child._process.pid]
    child.kill()


def modules(*names: str) -> Iterator[list[str]]:
    import pyarrow as pa

    pa.array([1])
    yield [name for name in names if name in sys.modules]


def test_a_child_does_without_pandas() -> None:
    assert list(decoder.stream(modules, "pyarrow", "pandas")) == [["pyarrow"]]


def test_a_child_that_ended_as_it_was_asked_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    child = decoder._Child()
    child._requests.close()  # its parent seems to be gone: it ends in order
    assert child._process.wait(30) == 0
    child.asked = True  # the request was written before its end was seen
    monkeypatch.setattr(decoder, "_idle_child", lambda request: child)
    assert list(decoder.stream(numbers, 3)) == [0, 1, 2]


def test_a_child_that_ends_in_the_middle_of_its_work_has_crashed() -> None:
    found = decoder.stream(ends_in_order)
    assert next(found) == 1
    with pytest.raises(DecoderEnded, match="crash"):
        next(found)
