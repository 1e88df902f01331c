"""What a driver saw of its job over time: for charts and cost, after the fact and for people only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document

Activity = Literal["waiting", "loading", "busy", "idle", "lost"]
"""What a replica does. `busy` and `idle` are the two ways to be ready: with and without rows or shards."""


class Sample(Document):
    """The job at one moment. Counts only grow within one driver's history."""

    at: float = Field(description="Seconds since the epoch, by the driver's clock.")
    rows_ok: int = Field(0, ge=0, description="Of the whole job: committed rows, and those that left an engine since.")
    rows_error: int = Field(0, ge=0)
    input_tokens: int = Field(0, ge=0, description="That went through this driver's engines.")
    generated_tokens: int = Field(0, ge=0, description="By this driver's engines.")
    cached_tokens: int = Field(0, ge=0, description="Of the input tokens, those found in a prefix cache.")
    replica_s: float = Field(0.0, ge=0.0, description="Seconds that this driver's replicas have held their resources.")
    waiting: int = Field(0, ge=0, description="Replicas that do this now; likewise the next four.")
    loading: int = Field(0, ge=0)
    busy: int = Field(0, ge=0)
    idle: int = Field(0, ge=0)
    lost: int = Field(0, ge=0)


class Interval(Document):
    """A time in which one place in the pool did one thing."""

    slot: int = Field(ge=0, description="Number of the place; replicas that replace each other share it.")
    restarts: int = Field(0, ge=0, description="Replicas that this place has had before.")
    activity: Activity
    node: str = ""
    note: str = Field("", description="Of a lost replica, what it died of.")
    began_at: float = Field(description="Seconds since the epoch.")
    ended_at: float


class History(Document):
    """One driver's view. Advisory and bounded: samples and intervals are thinned as a job grows old."""

    format_version: int = FORMAT_VERSION
    driver: str
    samples: tuple[Sample, ...] = ()
    intervals: tuple[Interval, ...] = Field((), description="By slot, then by time; of the first slots only.")
    num_slots: int = Field(0, ge=0, description="Places in the pool, with those that have no intervals here.")
    gpus_per_replica: int | None = Field(None, ge=0, description="None until a replica has loaded its engine.")
    engine: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="What the engine resolved its limits to."
    )
    versions: dict[str, str] = Field(default_factory=dict, description="Of the driver's packages.")
