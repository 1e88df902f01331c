"""Closing the shards that a job has left at its limit: how many at once, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.errors import StoreError
from jobs.ledger import Ledger
from jobs.staged import Staged
from jobs.store.local import LocalStore
from schemas.codes import RowError
from schemas.records import Plan
from tests.unit.workers.test_replicas_faults import spec_with, stage
from workers.driver.closing import MEMORY_BYTES, MOST_SHARDS, STAGED_ROWS, close_shards
from workers.driver.dispatch import Dispatcher
from workers.shards.closing import close_shard


class Slow(LocalStore):
    """A store whose reads and commits take a while, as those of a store elsewhere do."""

    def _wait(self) -> None:
        time.sleep(0.02)

    def get(self, key: str) -> bytes | None:
        self._wait()
        return super().get(key)

    def put_new(self, key: str, data: bytes, **rest: Any) -> bool:
        self._wait()
        return super().put_new(key, data, **rest)


class Watched:
    """`close_shard`, with the most bytes and shards that were under way at once."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._lock = plan, threading.Lock()
        self._shards, self._bytes = 0, 0
        self.most_shards, self.most_bytes = 0, 0

    def __call__(self, ledger: Ledger, spec: Any, plan: Plan, shard: int, *rest: Any, **more: Any) -> Any:
        size = plan.shards[shard].num_bytes or 0
        with self._lock:
            self._shards, self._bytes = self._shards + 1, self._bytes + size
            self.most_shards = max(self.most_shards, self._shards)
            self.most_bytes = max(self.most_bytes, self._bytes)
        try:
            return close_shard(ledger, spec, plan, shard, *rest, **more)
        finally:
            with self._lock:
                self._shards, self._bytes = self._shards - 1, self._bytes - size


def sized(plan: Plan, num_bytes: int | None) -> Plan:
    return plan.evolve(shards=tuple(shard.evolve(num_bytes=num_bytes) for shard in plan.shards))


def close(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    shards: int,
    num_bytes: int | None,
    before: Callable[[Ledger], None] = lambda _: None,
) -> tuple[Ledger, Watched]:
    ledger, spec = Ledger(Slow(root), "demo"), spec_with()
    plan = sized(stage(ledger, spec, [[f"{n}a", f"{n}b"] for n in range(shards)]), num_bytes)
    dispatcher = Dispatcher(plan.shards)
    dispatcher.stage(range(shards))
    watched = Watched(plan)
    sound = {shard: Staged(ledger).read(shard) for shard in Staged(ledger).shards()}
    before(ledger)

    def stage_again(shard: int) -> None:
        Staged(ledger).delete([shard])
        Staged(ledger).write(shard, sound[shard], writer="again")
        dispatcher.stage([shard])

    monkeypatch.setattr("workers.driver.closing.close_shard", watched)
    committed = list[int]()
    closing = close_shards(
        ledger, spec, plan, dispatcher, RowError.TIME_LIMIT, driver="d",
        on_commit=lambda shard, _: committed.append(shard), on_damage=stage_again,
    )  # fmt: skip
    asyncio.run(asyncio.wait_for(closing, 60))
    assert sorted(committed) == list(range(shards))
    return ledger, watched


@pytest.mark.parametrize(
    ("num_bytes", "at_once"),
    [
        (1000, MOST_SHARDS),
        (MEMORY_BYTES // STAGED_ROWS // 5, 5),
        (MEMORY_BYTES // STAGED_ROWS // 2, 2),
        (MEMORY_BYTES, 1),
        (None, 2),
    ],
)
def test_as_many_shards_are_closed_at_once_as_the_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int | None, at_once: int
) -> None:
    ledger, watched = close(tmp_path, monkeypatch, shards=40 if at_once > 5 else 8, num_bytes=num_bytes)
    assert watched.most_shards == at_once
    assert STAGED_ROWS * watched.most_bytes <= max(MEMORY_BYTES, STAGED_ROWS * (num_bytes or 0))
    for shard in ledger.committed():
        table = pq.read_table(Path(ledger.uri) / f"results/part-{shard:05d}.parquet")
        assert table["error_code"].to_pylist() == ["TIME_LIMIT"] * 2


def test_a_shard_whose_staged_rows_are_damaged_is_staged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(ledger: Ledger) -> None:
        (Path(ledger.uri) / "_job/staged/part-00003.parquet").write_bytes(b"PAR1")

    close(tmp_path, monkeypatch, shards=6, num_bytes=10, before=damage)


def test_an_error_of_the_store_ends_the_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise StoreError("no store")

    with pytest.raises(StoreError, match="no store"):
        close(tmp_path, monkeypatch, shards=6, num_bytes=10, before=lambda ledger: setattr(ledger, "commit", refuse))
