"""Planning runs in a task: what goes wrong there is told as if it had gone wrong here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from jobs.errors import StoreError, UsageError
from workers import staging
from workers.faults import find_cause


@pytest.mark.parametrize("error", [UsageError("Job a has not ended.", "Wait."), StoreError("It is away.", "Resume.")])
def test_an_error_in_the_planning_task_keeps_its_words(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def get(_: Any) -> None:
        raise RayTaskError("make", "a traceback, with colours", error).as_instanceof_cause()

    task = SimpleNamespace(remote=lambda *_: ("plan", "hurt", "places"))
    monkeypatch.setattr(staging, "ray", SimpleNamespace(remote=lambda **_: lambda _: task, get=get))
    with pytest.raises(type(error)) as raised:
        staging._Staging._plan(object.__new__(staging._Staging), None, None)  # type: ignore[arg-type]
    found = find_cause(raised.value, type(error))
    assert found is not None
    assert str(found) == str(error)
