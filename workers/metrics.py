"""Metrics of the job in Ray's Prometheus endpoint. vLLM's Ray stat logger exports its own beside them."""

from __future__ import annotations

from collections import Counter as Counts

from ray.util.metrics import Counter, Gauge, Histogram

from schemas.commits import ShardStats
from schemas.pools import PoolReplicaState, PoolState

SHARD_SECONDS: list[float] = [1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600]
"""Bounds of the shard histogram's buckets: a shard is meant to take a few minutes."""


class ReplicaMetrics:
    """Counters of committed work by one replica. Tags: `job_id`, `replica`, `pool` (empty without one)."""

    def __init__(self, job_id: str, replica: str, pool: str = "") -> None:
        tags = {"job_id": job_id, "replica": replica, "pool": pool}
        self._rows_ok = _counter("batch_rows_ok_total", "Rows committed with a result.", tags)
        self._rows_error = _counter("batch_rows_error_total", "Rows committed as error rows.", tags)
        self._input = _counter("batch_input_tokens_total", "Input tokens of committed rows.", tags)
        self._generated = _counter("batch_generated_tokens_total", "Generated tokens of committed rows.", tags)
        self._shards = _counter("batch_shards_committed_total", "Shards committed.", tags)
        self._in_flight = _gauge("batch_rows_in_flight", "Rows inside the engine.", tags)
        self._waiting = _gauge("batch_engine_queue_depth", "Rows inside the engine that it does not compute yet.", tags)
        self._lag = _gauge("batch_event_loop_lag_seconds", "Longest delay of the replica's event loop lately.", tags)
        self._idle = _counter("batch_engine_idle_seconds_total", "Seconds in which the engine had no row.", tags)
        self._idle_s = 0.0
        self._shard_s = _histogram("batch_shard_seconds", "From taking a shard to its commit.", SHARD_SECONDS, tags)

    def committed(self, stats: ShardStats, *, took_s: float) -> None:
        """Count a shard that this replica committed; one lost to another writer is not counted.

        Args:
            took_s: seconds from taking the shard to its commit. Shards overlap, so these do not add up to elapsed time.
        """
        self._shard_s.observe(took_s)
        for counter, value in (
            (self._rows_ok, stats.num_rows - stats.num_error_rows),
            (self._rows_error, stats.num_error_rows),
            (self._input, stats.num_input_tokens),
            (self._generated, stats.num_generated_tokens),
            (self._shards, 1),
        ):
            if value:
                counter.inc(value)

    def engine(self, *, rows: int, waiting: int, idle_s: float, worst_lag_s: float) -> None:
        """Report how well the engine is fed.

        Args:
            rows: rows inside the engine; it does not compute `waiting` of them yet.
            idle_s: seconds without any row, in total.
            worst_lag_s: longest delay of the event loop since the last call.
        """
        self._in_flight.set(rows)
        self._waiting.set(waiting)
        self._lag.set(worst_lag_s)
        if idle_s > self._idle_s:
            self._idle.inc(idle_s - self._idle_s)
            self._idle_s = idle_s


class EngineMetrics:
    """Gauges of one replica of a pool. Tags: `pool`, `replica`."""

    def __init__(self, pool: str, replica: str) -> None:
        tags = {"pool": pool, "replica": replica}
        self._rows = _gauge("batch_pool_rows_in_flight", "Rows inside the engine, of all jobs.", tags)
        self._waiting = _gauge("batch_pool_engine_queue_depth", "Rows inside that it does not compute yet.", tags)
        self._jobs = _gauge("batch_pool_seats", "Seats that jobs have in the replica.", tags)
        self._lag = _gauge("batch_pool_event_loop_lag_seconds", "Longest delay of its event loop lately.", tags)

    def look(self, *, rows: int, waiting: int, jobs: int, worst_lag_s: float) -> None:
        """Report the engine's rows and the jobs that they are of."""
        self._rows.set(rows)
        self._waiting.set(waiting)
        self._jobs.set(jobs)
        self._lag.set(worst_lag_s)


class PoolMetrics:
    """Gauges of a whole pool, set by its driver. Tag: `pool`; of its jobs also `job_id` and `priority`."""

    def __init__(self, pool: str) -> None:
        tags = {"pool": pool}
        self._replicas = _gauge("batch_pool_replicas", "Replicas by state.", tags, "state")
        self._rows_left = _gauge("batch_pool_rows_left", "Rows without a result.", tags, "job_id", "priority")
        self._share = _gauge("batch_pool_share", "Share of the last minute's tokens.", tags, "job_id", "priority")
        self._engine_s = _gauge("batch_pool_engine_seconds", "The job's part of the engines' time.", tags, "job_id")
        self._states: set[PoolReplicaState] = set()
        self._jobs: set[tuple[str, str]] = set()

    def look(self, state: PoolState) -> None:
        """Report the pool's state."""
        counts = Counts(replica.state for replica in state.replicas)
        self._states |= set(counts)
        for name in self._states:
            self._replicas.set(counts[name], {"state": name})
        present = {(job.job_id, job.priority): job for job in state.jobs}
        for job_id, priority in self._jobs - set(present):  # a job that has left must not stand there for ever
            self._rows_left.set(0, {"job_id": job_id, "priority": priority})
            self._share.set(0, {"job_id": job_id, "priority": priority})
        for (job_id, priority), job in present.items():
            self._rows_left.set(job.rows_left, {"job_id": job_id, "priority": priority})
            self._share.set(job.share, {"job_id": job_id, "priority": priority})
            self._engine_s.set(job.engine_s, {"job_id": job_id})
        self._jobs = set(present)


class DriverMetrics:
    """Gauges of the whole job, set by its driver. Tag: `job_id`."""

    def __init__(self, job_id: str) -> None:
        tags = {"job_id": job_id}
        self.rows_planned = _gauge("batch_rows_planned", "Rows of the job.", tags)
        self.rows_done = _gauge("batch_rows_done", "Rows of the job that are committed.", tags)
        self.shards_total = _gauge("batch_shards", "Shards of the job.", tags)
        self.shards_done = _gauge("batch_shards_done", "Shards of the job that are committed.", tags)
        self.rows = _gauge(
            "batch_rows",
            "Rows by status: ok and error (kept), open (not yet), left.",
            tags,
            "status",
        )
        self.replicas_ready = _gauge("batch_replicas_ready", "Replicas that take rows.", tags)
        self.replicas_lost = _gauge("batch_replicas_lost", "Replicas that died since the driver started.", tags)
        self.shard_copies = _gauge("batch_shard_copies", "Open shards that were given to an idle replica, too.", tags)
        self.input_rate = _gauge("batch_input_tokens_per_second", "Input tokens per second.", tags)
        self.generated_rate = _gauge("batch_generated_tokens_per_second", "Generated tokens per second.", tags)
        self.cached_share = _gauge("batch_cached_token_share", "Share of input tokens found in the prefix cache.", tags)
        self.gpu_s = _gauge("batch_gpu_seconds", "GPU time held by the job's replicas, over all its drivers.", tags)
        self.gpus_ready = _gauge("batch_gpus_ready", "GPUs of the replicas that take rows.", tags)


def _counter(name: str, description: str, tags: dict[str, str]) -> Counter:
    counter = Counter(name, description=description, tag_keys=tuple(tags))
    counter.set_default_tags(tags)
    return counter


def _gauge(name: str, description: str, tags: dict[str, str], *more_tags: str) -> Gauge:
    """Make a gauge with default tags; `more_tags` are set with each value."""
    gauge = Gauge(name, description=description, tag_keys=(*tags, *more_tags))
    gauge.set_default_tags(tags)
    return gauge


def _histogram(name: str, description: str, bounds: list[float], tags: dict[str, str]) -> Histogram:
    histogram = Histogram(name, description=description, boundaries=bounds, tag_keys=tuple(tags))
    histogram.set_default_tags(tags)
    return histogram
