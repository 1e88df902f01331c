"""Replaces the program's surroundings with a simulated world: its clock, its randomness, its S3 client, its Ray."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import tenacity.nap
import tenacity.wait

import jobs.client
import jobs.dataset
import jobs.failpoints
import jobs.results.read
import jobs.store.s3_client
import jobs.submitting
import jobs.threads
import workers.driver.driver
import workers.driver.progress
import workers.driver.replicas
import workers.engines.fake
import workers.logs
import workers.pool.manager
import workers.replica.admission
import workers.replica.feed
import workers.replica.pooled
import workers.replica.replica
import workers.replica.seats
import workers.staging.staging
from tests.simulation.cluster import SimRows
from tests.simulation.loop import CURRENT, Killed
from tests.simulation.world import Stay, World
from workers.driver.dispatch import Dispatcher
from workers.engines.base import Output
from workers.engines.fake import FakeEngine
from workers.logs import LineHandler
from workers.replica.admission import Door
from workers.shards.outputs import Row

CANARY = "CANARY-PROMPT-d21b"
"""Part of every prompt; must appear nowhere except in rows."""

_PROGRAM = ("jobs", "workers", "tenacity")


class _Clock:
    """The module `time`, in virtual time."""

    world: World

    def monotonic(self) -> float:
        return self.world.loop.time()

    def time(self) -> float:
        return self.world.now().timestamp()

    def sleep(self, seconds: float) -> None:
        self.world.loop.sleep(seconds)


class _Datetime(datetime):
    """The class `datetime`, in virtual time."""

    world: World

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return cls.world.now()


class _Inline:
    """The class `ThreadPoolExecutor`, with one thread: the caller's."""

    def __init__(self, max_workers: int) -> None:
        pass

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Any, *arguments: Any) -> Iterator[Any]:
        return map(function, *arguments)

    def submit(self, function: Any, *arguments: Any) -> Any:
        return SimpleNamespace(result=lambda: function(*arguments))

    def shutdown(self, **_: Any) -> None:
        pass


class _Gauge:
    """A metric that does nothing; Ray's are not under test here."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: object, **__: object) -> None:
        pass


class WatchedDispatcher(Dispatcher):
    """A dispatcher that counts engine deaths per shard."""

    world: World

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.deaths: Counter[int] = Counter()
        self.world.dispatchers.append(self)

    def died(self, replica: str, code: Any) -> None:
        self.deaths.update(self._open.get(replica, {}).keys())
        super().died(replica, code)


class WatchedDoor(Door):
    """A door that keeps record of the rows that pass it."""

    world: World

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stays: dict[int, Stay] = {}

    async def enter(self, row: Row) -> int:
        began = self.world.loop.time()
        place = await super().enter(row)
        stay = self._stays[place] = Stay(
            replica=CURRENT.get(),
            job_id=self.job.partition("/")[0],
            waited_from_s=began,
            entered_s=self.world.loop.time(),
            tokens=row.num_tokens,
        )
        self.world.stays.append(stay)
        return place

    def learn(self, place: int, output: Output) -> None:
        super().learn(place, output)
        stay = self._stays[place]
        stay.answered_s = self.world.loop.time()
        stay.generated_tokens = sum(len(completion.token_ids) for completion in output.completions)

    def leave(self, place: int, *, cut_off: bool = False) -> None:
        self._stays.pop(place).left_s = self.world.loop.time()
        super().leave(place, cut_off=cut_off)


def _crash(_: FakeEngine) -> None:
    """Kill the simulated process instead of the real one."""
    process = CURRENT.get()
    assert process is not None
    process.kill()
    raise Killed


def _freeze(_: FakeEngine) -> None:
    process = CURRENT.get()
    assert process is not None
    process.stop()


def _attach(handler: LineHandler) -> None:
    process = CURRENT.get()
    assert process is not None
    process.log_handlers.append(handler)


class Seams:
    """The program as it runs in a simulated world; one world at a time."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.world: World

    def enter(self, world: World, seed: int) -> None:
        """Run the program in this world from now on."""
        self.world = self.clock.world = _Datetime.world = SimRows.world = world
        WatchedDispatcher.world = WatchedDoor.world = world
        self.random = Random(f"program/{seed}")

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)


@contextmanager
def seams() -> Iterator[Seams]:
    """Replace the program's surroundings until the end of the block, in the modules that are loaded now."""
    held, patches = Seams(), []

    def put(target: Any, name: str, value: Any) -> None:
        patches.append(patch.object(target, name, value))

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in _PROGRAM:
            continue
        for attribute, value in list(vars(module).items()):
            if value is time:
                put(module, attribute, held.clock)
            elif value is datetime:
                put(module, attribute, _Datetime)
            elif value is uuid.uuid4:
                put(module, attribute, held.uuid4)
    put(tenacity.wait, "random", SimpleNamespace(uniform=lambda low, high: held.random.uniform(low, high)))
    put(jobs.failpoints, "_directory", "simulated")
    put(jobs.failpoints, "_hit", lambda path: held.world.step(f"is at {path.name}"))
    put(jobs.store.s3_client, "_process_client", lambda _: held.world.network)
    for module in (workers.driver.driver, jobs.threads, jobs.results.read):
        put(module, "ThreadPoolExecutor", _Inline)
    put(workers.driver.driver, "Dispatcher", WatchedDispatcher)
    put(workers.replica.admission, "Door", WatchedDoor)
    faults = workers.engines.fake._FAULTS
    put(workers.engines.fake, "_FAULTS", {**faults, "crash": _crash, "freeze": _freeze})
    # Each process has its own lines; the real ones are one process each, and attach once.
    put(workers.logs.LineHandler, "attach", _attach)
    put(workers.logs, "recent_lines", workers.logs.recent_lines.__wrapped__)
    put(workers.replica.pooled, "route_lines", workers.replica.seats.route_lines.__wrapped__)
    put(workers.replica.replica, "ReplicaMetrics", _Gauge)
    put(workers.replica.seats, "ReplicaMetrics", _Gauge)
    put(workers.replica.pooled, "EngineMetrics", _Gauge)
    put(workers.pool.manager, "PoolMetrics", _Gauge)
    put(workers.pool.manager, "this_process", lambda: None)
    put(workers.driver.progress, "DriverMetrics", _Gauge)
    put(workers.driver.progress, "this_process", lambda: None)
    inspect = lru_cache(jobs.dataset.inspect)
    put(jobs.dataset, "inspect", inspect)
    put(workers.staging.staging, "inspect", inspect)
    put(workers.staging.staging, "pin", _cached_pin())
    put(workers.staging.staging._Staging, "_prepare", lambda run, _: SimRows.of(run._spec))
    handler = _Canaries(held)
    loggers = [logging.getLogger(name) for name in ("jobs", "workers")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        for each in patches:
            each.start()
        yield held
    finally:
        for each in reversed(patches):
            each.stop()
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _Canaries(logging.Handler):
    """Checks every log line for canaries and unexpected errors, and passes it on to the process that logs it."""

    def __init__(self, held: Seams) -> None:
        super().__init__()
        self._held = held

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            self._held.world.violation(f"an error that nobody foresaw: {record.exc_info[1]!r}")
            text += "".join(traceback.format_exception(record.exc_info[1]))
        if "CANARY" in text:
            self._held.world.violation(f"I8: a log line quotes a canary: {text[:300]}")
        process = CURRENT.get()
        for handler in process.log_handlers if process is not None else ():
            handler.emit(record)


def _cached_pin() -> Any:
    known: dict[Path, Any] = {}
    real = jobs.dataset.pin

    def pin(dataset: Any) -> Any:
        key = dataset.files[0].uri
        if key not in known:
            known[key] = real(dataset)
        return known[key]

    return pin
