"""What errors of other libraries put into logs and messages: never a value."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from pydantic import BaseModel, ValidationError

from jobs.errors import StoreError
from jobs.text import quoted
from jobs.traces import describe, hide_messages_in_logs, trace

SECRET = "CANARY-91c4"


class _Model(BaseModel):
    count: int


def _arrow() -> None:
    pa.array([SECRET]).cast(pa.int64())


def _pydantic() -> None:
    _Model.model_validate({"count": SECRET})


def _chained() -> None:
    try:
        _arrow()
    except pa.ArrowException as error:
        raise KeyError(SECRET) from error


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    before, written = logging.Formatter.formatException, io.StringIO()
    handler, logger = logging.StreamHandler(written), logging.getLogger("jobs.test")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    hide_messages_in_logs()
    yield written
    logger.removeHandler(handler)
    logging.Formatter.formatException = before  # type: ignore[method-assign]


@pytest.mark.parametrize("fail", [_arrow, _pydantic, _chained])
def test_a_logged_traceback_has_places_and_types_alone(log: io.StringIO, fail: Callable[[], None]) -> None:
    with pytest.raises((ValueError, KeyError), match=SECRET) as caught:
        fail()
    logging.getLogger("jobs.test").error("It went wrong.", exc_info=caught.value)
    assert SECRET not in describe(caught.value)
    said = log.getvalue()
    assert SECRET not in said
    assert "It went wrong." in said
    assert "test_traces.py" in said
    assert fail.__name__ in said
    assert ("ArrowInvalid" in said) == (fail is not _pydantic)


def test_messages_of_our_own_and_of_the_system_stay() -> None:
    assert describe(StoreError("It is gone.")) == "StoreError: It is gone."
    assert describe(FileNotFoundError(2, "-", "/x")) == "FileNotFoundError: No such file or directory: /x"
    with pytest.raises(ValidationError) as caught:
        _pydantic()
    assert describe(caught.value).startswith("ValidationError in ")
    assert trace(ValueError(SECRET)) == "ValueError"


def test_a_quoted_option_is_cut() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted(SECRET * 100)) == 81
