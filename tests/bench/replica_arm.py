"""The product from rows to results in one process: plan, replicas, dispatcher, replica, feed and commits are the
real ones; only Ray is not there, so that one engine serves many jobs and arms can take turns.

`python -m tests.bench.replica_arm MODEL` serves (see `tests.bench.arms`):

- ours: everything on
- ours-order: rows stay in the dataset's order
- ours-feed: the next shard opens when the one before is committed

Affinity and the tail need several replicas: `tests.bench.fleet` plays them.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.dataset.columns import resolve_columns
from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.planning import shards as planner
from jobs.planning.facts import facts_of
from jobs.planning.order import Order
from jobs.rows.prepare import FACTS_FIELDS, RowPreparer
from jobs.staged import Staged
from jobs.store import open_store
from schemas.records import Plan
from schemas.sampling import Sampling
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec, ShardBudget
from tests.bench.arms import serve
from tests.bench.engine_arms import LIMITS
from workers.driver import replicas, slots
from workers.driver.dispatch import Dispatcher
from workers.driver.resources import Resources
from workers.engines.base import Engine, EngineInfo
from workers.engines.vllm import VllmEngine
from workers.messages import ShardDone
from workers.replica.replica import Replica
from workers.shards.results import write_parquet

MIN_SHARD_TOKENS = 1024
"""16,384 by default: scaled down, so that small workloads have several shards, too."""

IN_PROCESS = Resources(on_gpu=False, num_gpus=0, num_cpus=0, after_staging=False)


class StandingEngine(VllmEngine):
    """Starts once and stays when its replica goes."""

    _info: EngineInfo | None = None

    async def start(self) -> EngineInfo:
        if self._info is None:
            self._info = await super().start()
        return self._info

    async def stop(self) -> None:
        pass

    async def forget(self) -> None:
        """Empty the prefix cache."""
        await self._llm.reset_prefix_cache()


class LocalReplica(Replica):
    """A replica that `Replicas` reaches without Ray. See `workers.driver.cluster.ReplicaHandle`."""

    engine: ClassVar[Engine]
    shared = False

    async def _make_engine(self) -> Engine:
        return self.engine

    async def started(self) -> None:
        """It is there."""

    async def claim(self) -> bool:
        """No other job has rows in it."""
        return True

    async def release(self) -> None:
        """See `claim`."""

    async def report_stall(self) -> None:
        """Nobody else owns it."""

    async def last_lines(self) -> str:
        """Nothing is known."""
        return ""

    def kill(self) -> None:
        """Its process is this one: only what it does in the background ends."""
        self._watching.cancel()


class LocalCluster:
    """Room for replicas in this process."""

    def __init__(self) -> None:
        self._replicas: list[LocalReplica] = []

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> LocalReplica:
        """See `workers.driver.cluster.Cluster`."""
        self._replicas.append(LocalReplica(ledger, name, driver, on_gpu=resources.on_gpu))
        return self._replicas[-1]

    async def draining_nodes(self) -> dict[str, float]:
        """See `workers.driver.cluster.Cluster`."""
        return {}

    def report_demand(self, rows: int | None) -> None:
        """Nothing is started by it."""

    async def close(self) -> None:
        """Nothing is to be left."""

    def cached_tokens(self) -> int:
        """Input tokens that engines found in their prefix caches."""
        return sum(replica._standing_feed().cached_tokens for replica in self._replicas)


def main() -> None:
    """Parse the command line, start the engine and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replica_arm", description=__doc__)
    parser.add_argument("model", type=Path)
    given = parser.parse_args()
    loop = asyncio.new_event_loop()
    engine, began = (
        StandingEngine(_engine_spec(), str(given.model), load_encoder(str(given.model)), None, on_gpu=False),
        time.monotonic(),
    )
    loop.run_until_complete(engine.start())
    LocalReplica.engine = engine
    serve(
        {"start_s": round(time.monotonic() - began, 1)},
        lambda arm, dataset: loop.run_until_complete(_run(engine, given.model, arm, dataset)),
    )


async def _run(engine: StandingEngine, model: Path, arm: str, dataset: Path) -> dict[str, Any]:
    await engine.forget()
    spec = JobSpec(
        name="bench",
        input=InputSpec(uri=str(dataset), chat=False),
        model=ModelSpec(path=str(model), fingerprint="bench"),
        engine=_engine_spec(),
        sampling=Sampling(temperature=0.0, ignore_eos=True),
        shards=ShardBudget(min_tokens=MIN_SHARD_TOKENS),
    )
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as work, _SWITCHES[arm]():
        began = time.monotonic()
        ledger = Ledger(open_store(work), "bench")
        ledger.create(spec, writer="bench")
        plan = _stage(ledger, spec, pq.read_table(dataset))
        staged_s, began = time.monotonic() - began, time.monotonic()
        done: list[ShardDone] = []
        cluster = LocalCluster()
        running = replicas.Replicas(ledger, spec, "bench", cluster, done.append)  # type: ignore[arg-type]
        dispatcher = Dispatcher(plan.shards)
        dispatcher.stage(range(len(plan.shards)))
        running.open(dispatcher)
        await running.run(IN_PROCESS)
        took = time.monotonic() - began
        await running.kill()
    tokens_in, tokens_out = (
        sum(getattr(one.stats, f"num_{kind}_tokens") for one in done) for kind in ("input", "generated")
    )
    return {
        "rows": plan.num_rows,
        "shards": len(plan.shards),
        "input_tokens": tokens_in,
        "generated_tokens": tokens_out,
        "cached_tokens": cluster.cached_tokens(),
        "staging_s": round(staged_s, 2),
        "seconds": round(took, 2),
        "rows_per_s": round(plan.num_rows / took, 3),
        "tokens_per_s": round((tokens_in + tokens_out) / took, 1),
    }


def _stage(ledger: Ledger, spec: JobSpec, table: pa.Table) -> Plan:
    """As `workers.staging.staging`, for what fits into memory."""
    encoder = load_encoder(spec.model.path)
    model_len = min(spec.engine.max_model_len or encoder.max_model_len, encoder.max_model_len)
    columns = resolve_columns(table.schema, spec.input, choices=False)
    prepared = RowPreparer(spec, columns, encoder, model_len).prepare(table, 0)
    facts = facts_of(prepared)
    split = planner.split(facts, spec.shards)
    plan = ledger.create_plan(
        Plan(
            spec_sha256=spec.digest(),
            files=(),
            shards=split.shards,
            row_columns=(),
            num_rows=len(facts),
            num_invalid_rows=int(facts.invalid.sum()),
            num_reused_rows=0,
            num_repeated_rows=int(facts.repeated.sum()),
            num_input_tokens=int(facts.num_input_tokens.sum()),
            max_input_tokens=int(facts.num_input_tokens.max()),
            max_model_len=model_len,
        ),
        writer="bench",
    )
    rows = prepared.drop_columns([field.name for field in FACTS_FIELDS])
    rows = rows.append_column("position", pa.array(split.position))
    for shard in plan.shards:
        of_shard = rows.filter(pc.equal(pa.array(split.shard_of), shard.index)).sort_by("position")
        Staged(ledger).write(shard.index, write_parquet(of_shard.drop_columns(["position"])), writer="bench")
    return plan


def _engine_spec() -> EngineSpec:
    limits = LIMITS[False]
    return EngineSpec.model_validate({"device": "cpu", **limits})


@contextmanager
def _nothing_off() -> Iterator[None]:
    yield


@contextmanager
def _order_off() -> Iterator[None]:
    def as_read(facts: planner.RowFacts) -> Order:
        return Order(np.arange(len(facts)), np.zeros(len(facts), np.int32))

    with patch.object(planner, "order_rows", as_read):
        yield


@contextmanager
def _feed_off() -> Iterator[None]:
    with patch.object(slots, "MAX_OPEN_SHARDS", 1), patch.object(slots, "OPEN_ROWS_PER_SEQUENCE", 0):
        yield


_SWITCHES: dict[str, Callable[[], Any]] = {"ours": _nothing_off, "ours-order": _order_off, "ours-feed": _feed_off}
ARMS = tuple(_SWITCHES)

if __name__ == "__main__":
    main()
