"""Ray implementation of `Cluster`: replicas are actors, staging runs in Ray Data's tasks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from jobs.ledger import Ledger
from schemas.codes import RowError
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.drains import draining_nodes
from workers.driver.cluster import ReplicaHandle, ReplicaLost
from workers.driver.last_lines import last_lines
from workers.driver.resources import Resources, resolve_resources
from workers.messages import Loaded, LogBatch, ReplicaCounters, ShardDone, ShardSalvaged

_T = TypeVar("_T")


class RayCluster:
    """The cluster that this process is connected to. See `workers.driver.cluster.Cluster`.

    Args:
        replica: class of the replicas' actors.
    """

    def __init__(self, replica: type[Any]) -> None:
        self._replica = replica

    def resolve_resources(self, spec: JobSpec) -> Resources:
        return resolve_resources(spec, cores=cores())

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> ReplicaHandle:
        actor = ray.remote(self._replica).options(**resources.actor_options, name=name)
        return RayReplica(actor.remote(ledger, name, driver, on_gpu=resources.on_gpu, traced=True))

    def report_demand(self, rows: int | None) -> None:
        pass

    async def draining_nodes(self) -> Mapping[str, float]:
        return await asyncio.to_thread(draining_nodes)

    async def close(self) -> None:
        pass

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        def run() -> None:
            # Imported here: Ray Data takes seconds to import, and the replicas' start should not wait for it.
            from workers.staging.staging import stage

            stage(ledger, spec, writer, lambda event: _post(loop, report, event))

        loop = asyncio.get_running_loop()
        await _in_thread(run)


class RayReplica:
    """One actor. See `workers.driver.cluster.ReplicaHandle`."""

    shared = False

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def started(self) -> None:
        self._node_id = await node_id_of(self._actor)

    async def load(self) -> Loaded:
        loaded: Loaded = await result_of(self._actor.load.remote())
        return replace(loaded, node_id=self._node_id)

    async def claim(self) -> bool:
        return True

    async def release(self) -> None:
        pass

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        done: ShardDone = await result_of(self._actor.run_shard.remote(shard, attempt_id, excluded))
        return done

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        num_rows: int = await result_of(self._actor.probe.remote(shard, attempt_id, places))
        return num_rows

    async def admitted(self, attempt_id: str) -> None:
        await result_of(self._actor.admitted.remote(attempt_id))

    async def abandon(self, attempt_id: str) -> None:
        await result_of(self._actor.abandon.remote(attempt_id))

    async def leave(self, grace_s: float) -> None:
        await result_of(self._actor.leave.remote(grace_s))

    async def salvage(self) -> list[ShardSalvaged]:
        salvaged: list[ShardSalvaged] = await result_of(self._actor.salvage.remote())
        return salvaged

    async def counters(self) -> ReplicaCounters:
        counters: ReplicaCounters = await result_of(self._actor.counters.remote())
        return counters

    async def log_lines(self, number: int) -> LogBatch:
        batch: LogBatch = await result_of(self._actor.log_lines.remote(number))
        return batch

    async def stop(self) -> None:
        await result_of(self._actor.stop.remote())

    async def report_stall(self) -> None:
        pass

    async def last_lines(self) -> str:
        return await asyncio.to_thread(last_lines, self._actor._actor_id.hex())

    def kill(self) -> None:
        ray.kill(self._actor)


def cores() -> int:
    """CPUs of the cluster's nodes. An embedded cluster tells Ray of more than its machine has, which is this one."""
    here, own = ray.get_runtime_context().get_node_id(), len(os.sched_getaffinity(0))
    cpus = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]}
    return sum(min(count, own) if node == here else count for node, count in cpus.items())


async def node_id_of(actor: Any) -> str:
    """Wait until an actor runs; return the id of its node."""
    return str(await result_of(actor.__ray_call__.remote(_node_id)))


def _node_id(_: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


async def result_of(reference: Any) -> Any:
    """Await the actor's result; raise its errors without Ray's wrapping."""
    try:
        return await reference
    except (RayActorError, ActorUnavailableError) as error:
        # Ray reports a lost node only in the message.
        node_lost = isinstance(error, ActorDiedError) and "node has died" in str(error)
        raise ReplicaLost(f"{type(error).__name__}: {error}".strip(), blameless=node_lost) from error
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from error


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[_T], None], argument: _T) -> None:
    loop.call_soon_threadsafe(call, argument)


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run in a daemon thread, which unlike `to_thread` does not keep the driver of an ended job alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not future.done():
            future.set_result(None) if error is None else future.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - re-raised where the future is awaited
            error = raised
        loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="staging", daemon=True).start()
    return future
