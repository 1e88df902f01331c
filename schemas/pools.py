"""What pools keep in the object store, beside the job directories. Other tools skip names that start with `_`.

    _pools/<name>/specs/00001.json   write-once: the pool as it was asked for, in each of its generations
    _pools/<name>/down/00001.json    write-once: this generation and those before are to end
    _pools/<name>/state.json         overwritten every few seconds by the pool's driver; advisory
    <job_id>/_job/placement.json     overwritten: where the job's drivers compute; decides no result

The newest generation is in force, unless it is down.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.records import ProcessId
from schemas.spec import EngineSpec, ModelSpec, ReplicaRange

POOLS = "_pools/"
POOL_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")

Priority = Literal["urgent", "normal", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("urgent", "normal", "bulk")
"""Classes of jobs in a pool, the first to be served first."""

FLOOR = 0.05
"""Least share of the computed tokens of a class that others go before, while rows of it wait."""

MAX_WEIGHT = 1000.0


class Placement(Document):
    """Where a job computes, and its claim there. No part of a job's identity: it changes no result."""

    pool: str = Field(pattern=f"^{POOL_NAME.pattern}$")
    priority: Priority = "normal"
    weight: float = Field(1.0, gt=0.0, le=MAX_WEIGHT, description="Share of the tokens within the class.")
    isolated: bool = Field(False, description="Find no prefix of another job in the cache, and leave it none.")

    def __str__(self) -> str:
        return f"{self.pool} ({self.priority}, weight {self.weight:g}{', isolated' if self.isolated else ''})"


class PoolRange(ReplicaRange):
    """How many replicas a pool has: by the rows that wait, and `min`, which may be 0, once it is idle."""

    min: int = Field(1, ge=0, le=10_000)

    def __str__(self) -> str:
        return str(self.max) if self.min == self.max else f"{self.min}..{self.max}"


class PoolSpec(Document):
    """One generation of a pool."""

    format_version: int = FORMAT_VERSION
    name: str = Field(pattern=f"^{POOL_NAME.pattern}$")
    generation: int = Field(1, ge=1)
    model: ModelSpec
    engine: EngineSpec
    replicas: PoolRange = PoolRange()
    idle_s: float = Field(900.0, ge=0.0, description="A replica without rows for so long ends, down to the least.")
    version: str = Field(description="Version of the program; that of its jobs must be the same.")
    created_at: str = Field(description="UTC, ISO 8601. For people.")
    created_by: str = ""

    def asks_same(self, other: PoolSpec) -> bool:
        """Return whether both ask for the same pool: who asked, and when, does not count."""
        about = {"generation": 1, "created_at": "", "created_by": ""}
        return self.evolve(**about) == other.evolve(**about)


class PoolDown(Document):
    """A pool is to end."""

    format_version: int = FORMAT_VERSION
    by: str
    at: str = Field(description="UTC, ISO 8601. For people.")
    drain: bool = Field(False, description="Its jobs end first, and none joins any more.")


PoolReplicaState = Literal["waiting", "loading", "ready", "retiring", "lost"]


class PoolReplica(Document):
    """One replica of a pool as its driver last saw it."""

    replica: str
    generation: int
    state: PoolReplicaState
    since_s: float = 0.0
    node: str = ""
    pid: int = 0
    rows_in_flight: int = 0
    tokens_per_s: float = Field(0.0, description="Computed tokens a second, over the last minute.")
    idle_s: float = 0.0
    jobs: tuple[str, ...] = ()
    note: str = ""


class PoolJob(Document):
    """One job in a pool as the pool's driver last saw it."""

    job_id: str
    priority: Priority
    weight: float
    isolated: bool = False
    rows_left: int = Field(0, description="Rows without a result.")
    rows_in_flight: int = 0
    computed_tokens: int = Field(0, description="Uncached input and generated tokens of its rows in the pool.")
    share: float = Field(0.0, description="Of the tokens that the pool computed in the last minute.")
    engine_s: float = Field(0.0, description="Its part of the replicas' time, by its share of the tokens.")


PoolPhase = Literal["starting", "up", "draining", "ended"]


class PoolState(Document):
    """What a pool's driver says about itself every few seconds. Advisory: never a basis for a decision."""

    format_version: int = FORMAT_VERSION
    pool: str
    generation: int
    driver: str
    phase: PoolPhase
    updated_at: str = Field(description="UTC, ISO 8601.")
    started_at: str
    process: ProcessId | None = None
    reason: str = Field("", description="Why it has ended, or why its replicas do not start.")
    device: str = ""
    gpus_per_replica: int = 0
    replicas: tuple[PoolReplica, ...] = ()
    jobs: tuple[PoolJob, ...] = ()


def spec_key(name: str, generation: int) -> str:
    """The object of one generation, below the root."""
    return f"{POOLS}{name}/specs/{generation:05d}.json"


def down_key(name: str, generation: int) -> str:
    """The object that ends a generation."""
    return f"{POOLS}{name}/down/{generation:05d}.json"


def state_key(name: str) -> str:
    """The advisory state of a pool."""
    return f"{POOLS}{name}/state.json"
