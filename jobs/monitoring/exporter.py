"""Serves the facts to Prometheus. A thread reads them from the store; a scrape gets what was read last, at no cost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs.client import BatchClient
from jobs.errors import JobsError, UsageError
from jobs.monitoring import metrics
from jobs.monitoring.batches import BatchWatch
from jobs.monitoring.open_jobs import JobWatch
from jobs.monitoring.schedules import ScheduleWatch
from jobs.schedules.book import Book
from jobs.serve.batches import Batches
from jobs.settings import Settings

READ_S = 30.0
"""Time between two looks at the store. Each costs a few requests for every schedule and for every job and batch that
has not ended, and one listing for each thousand that have."""

_log = logging.getLogger(__name__)

Kind = tuple[str, Callable[[], tuple[list[GaugeMetricFamily], int]]]
"""A kind of facts, and what reads them: returns metrics and how many documents were left out."""


class Exporter(Collector):
    """Metrics of the schedules, jobs and batches under the settings' root, for a process that serves for long.

    Facts of one kind do not wait for those of another: a root with many jobs is read once at the start, which may take
    minutes, and its schedules are known meanwhile.
    """

    def __init__(self, settings: Settings) -> None:
        store = BatchClient(settings).store
        self._price = settings.gpu_hour_price
        self._schedules, self._jobs = ScheduleWatch(Book(store)), JobWatch(settings)
        self._batches = BatchWatch(Batches(store))
        self._found: dict[str, list[GaugeMetricFamily]] = {}
        self._read_at: dict[str, float] = {}
        self._took_s: dict[str, float] = {}
        self._unreadable: dict[str, int] = {}
        self._ticked_at: float | None = None
        self._stopping = threading.Event()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def start(self) -> None:
        """Begin to read, in threads of its own, until `stop`."""
        for kind in self._kinds():
            threading.Thread(target=self._run, args=(kind,), name=f"facts-{kind[0]}", daemon=True).start()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def read(self) -> None:
        """Read all facts once."""
        for kind in self._kinds():
            self._read(kind)

    def ticked(self) -> None:
        """Note that the scheduler of this process has looked at every schedule."""
        self._ticked_at = time.time()

    def text(self) -> bytes:
        """Return what a scrape gets, in Prometheus' text format."""
        return generate_latest(self._registry)

    def serve(self, host: str, port: int) -> int:
        """Answer scrapes at `http://HOST:PORT/metrics`; return the port, which for 0 is a free one.

        Raises:
            UsageError: the address cannot be listened on.
        """
        try:
            server, _ = start_http_server(port, host, registry=self._registry)
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}.", "Give another --metrics-port."
            ) from error
        return int(server.server_port)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics, as prometheus_client asks for them."""
        for found in list(self._found.values()):
            yield from found
        yield from metrics.of_reading(self._read_at, self._took_s, self._unreadable)
        yield from metrics.of_scheduler(self._ticked_at)

    def _kinds(self) -> list[Kind]:
        return [
            ("schedules", self._look_at_schedules),
            ("jobs", self._look_at_jobs),
            ("batches", self._look_at_batches),
        ]

    def _run(self, kind: Kind) -> None:
        while not self._stopping.is_set():
            self._read(kind)
            self._stopping.wait(READ_S)

    def _read(self, kind: Kind) -> None:
        """Read facts of one kind; if that fails, the old ones stay, and with them the time at which they were read."""
        name, look = kind
        began = time.monotonic()
        try:
            found, unreadable = look()
        except JobsError as error:
            _log.warning("Reading %s for the metrics: %s", name, error)
            return
        except Exception:  # noqa: BLE001 - the next look tries again, and the age of the facts tells of it
            _log.exception("Reading %s for the metrics", name)
            return
        self._found[name], self._unreadable[name] = found, unreadable
        self._took_s[name], self._read_at[name] = time.monotonic() - began, time.time()

    def _look_at_schedules(self) -> tuple[list[GaugeMetricFamily], int]:
        schedules, unreadable = self._schedules.look(datetime.now(UTC))
        return [*metrics.of_schedules(schedules, self._price)], unreadable

    def _look_at_jobs(self) -> tuple[list[GaugeMetricFamily], int]:
        facts = self._jobs.look()
        return [*metrics.of_jobs(facts)], facts.unreadable

    def _look_at_batches(self) -> tuple[list[GaugeMetricFamily], int]:
        facts = self._batches.look()
        return [*metrics.of_batches(facts)], facts.unreadable
