"""What a driver saw of its job over time: for charts and cost, after the fact and for people only."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document


class Activity(StrEnum):
    """What a replica does, as one letter. `busy` and `idle` are the two ways to be ready: with and without work."""

    WAITING = "w"
    LOADING = "l"
    BUSY = "b"
    IDLE = "i"
    LOST = "x"


class Sample(Document):
    """The job at one moment. Counts only grow within one driver's history."""

    at: float = Field(description="Seconds since the epoch, by the driver's clock.")
    rows_ok: int = Field(0, ge=0, description="Of the whole job: committed rows, and those that left an engine since.")
    rows_error: int = Field(0, ge=0)
    input_tokens: int = Field(0, ge=0, description="That went through this driver's engines.")
    generated_tokens: int = Field(0, ge=0, description="By this driver's engines.")
    cached_tokens: int = Field(0, ge=0, description="Of the input tokens, those found in a prefix cache.")
    gpu_s: float = Field(0.0, ge=0.0, description="GPU-seconds that this driver's replicas have held.")
    eta_s: float | None = Field(None, ge=0.0, description="Seconds to the end, as it was predicted then.")
    replicas: str = Field("", description="A letter of `Activity` for each place in the pool; of the first ones only.")


class Loss(Document):
    """A replica that died."""

    at: float = Field(description="Seconds since the epoch.")
    slot: int = Field(ge=0, description="Number of its place in the pool; replicas that replace each other share it.")
    node: str = ""
    reason: str = Field("", description="What is known of its end.")


class History(Document):
    """One driver's view. Advisory and bounded: every other sample goes, again and again, as a job grows old."""

    format_version: int = FORMAT_VERSION
    driver: str
    samples: tuple[Sample, ...] = ()
    losses: tuple[Loss, ...] = Field((), description="The latest ones.")
    num_slots: int = Field(0, ge=0, description="Places in the pool.")
    gpus_per_replica: int | None = Field(None, ge=0, description="None until it is known.")
    engine: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="What the engine resolved its limits to."
    )
    versions: dict[str, str] = Field(default_factory=dict, description="Of the driver's packages.")
