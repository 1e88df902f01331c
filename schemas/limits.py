"""Limits on the time and the cost of a job, and pauses: what keeps a job from going on until a person wants it to.

_job/limits/00001-raised.json         write-once: a person has changed the limits; the numbers ascend
_job/limits/00001-time-near.json      write-once: a notice about the limits as this change, or none (00000), made them
_job/limits/00001-time-expected.json  likewise: the estimate has crossed the limit
_job/limits/00001-time-reached.json   likewise: the job is stopped until the limits are raised
_job/limits/00001-time-closed.json    likewise: its missing rows become error rows
_job/pauses/00001.json                write-once: a person has paused the job
_job/pauses/00001-ended.json          write-once: a person has resumed it
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.codes import InterruptionCode, RowError
from schemas.options import Option, Panel

AtLimit = Literal["interrupt", "finish"]
Stage = Literal["near", "expected", "reached", "closed"]

NEAR = 0.8
"""Share of a limit at which the first notice is given."""

TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d( \S+)?")
"""`07:00`, or `07:00 Europe/Berlin`: in a schedule, whose runs each resolve it to a moment."""


class LimitKind(StrEnum):
    """What is limited."""

    TIME = "time"
    COST = "cost"
    GPU_HOURS = "gpu-hours"

    @property
    def row_error(self) -> RowError:
        """Code of the rows that have no result because of it."""
        return RowError.TIME_LIMIT if self is LimitKind.TIME else RowError.BUDGET

    @property
    def option(self) -> str:
        """How a person raises it, with an example."""
        return {"time": "--finish-within 12h", "cost": "--max-cost 300"}.get(self, "--max-gpu-hours 60")

    @property
    def interruption(self) -> InterruptionCode:
        """Why a driver ends because of it."""
        return InterruptionCode.TIME_LIMIT if self is LimitKind.TIME else InterruptionCode.BUDGET


class Limits(Document):
    """Most time and cost of a job, over all of its drivers. None: no limit."""

    finish_within_s: Annotated[
        float | None,
        Option(
            panel=Panel.LIMITS,
            name="finish_within",
            form="text",
            help="Most time from the submission to the end: 6h, 90m, 1h30m. Pauses count.",
        ),
    ] = Field(None, gt=0.0, description="Seconds from the submission to the end, pauses included.")
    finish_by: Annotated[
        str | None,
        Option(
            panel=Panel.LIMITS,
            form="text",
            help="When the job must have ended: 07:00, `07:00 Europe/Berlin` or 2026-03-29T07:00+02:00. A time of day "
            "is the next such moment; a schedule's run takes the first one after it begins.",
        ),
    ] = Field(
        None,
        description="Moment with its offset from UTC (ISO 8601) by which the job ends; in a schedule also a time of "
        "day, with a zone or in the schedule's own.",
    )
    max_cost: Annotated[float | None, Option(panel=Panel.LIMITS)] = Field(
        None, gt=0.0, description="Most cost of the job's GPU time, in the currency of `gpu_hour_price`."
    )
    max_gpu_hours: Annotated[float | None, Option(panel=Panel.LIMITS)] = Field(
        None, gt=0.0, description="Most GPU-hours that the job's replicas hold."
    )
    at_limit: Annotated[AtLimit, Option(panel=Panel.LIMITS)] = Field(
        "interrupt",
        description="At a limit, interrupt: stop until a person raises it. finish: rows without a result become error "
        "rows, and the quality gates decide.",
    )
    gpu_hour_price: float | None = Field(
        None, ge=0.0, description="Price of one GPU for one hour, for max_cost; pinned at submit."
    )

    @field_validator("finish_by")
    @classmethod
    def _is_a_moment(cls, text: str | None) -> str | None:
        if text is None or TIME_OF_DAY.fullmatch(text):
            return text
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text[:60]!r} is not a time; write 07:00 or 2026-03-29T07:00+02:00") from None
        if moment.tzinfo is None:
            raise ValueError(f"{text[:60]!r} has no time zone; write {text[:60]}Z or {text[:60]}+01:00")
        return moment.astimezone(UTC).isoformat(timespec="seconds")

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.max_cost is not None and not self.gpu_hour_price:
            raise ValueError("a limit on the cost needs the price of a GPU-hour: gpu_hour_price")
        return self

    @property
    def finish_at(self) -> datetime | None:
        """The moment of `finish_by`; None without one, or while it is a time of day."""
        if self.finish_by is None or TIME_OF_DAY.fullmatch(self.finish_by):
            return None
        return datetime.fromisoformat(self.finish_by)

    def __bool__(self) -> bool:
        given = (self.finish_within_s, self.finish_by, self.max_cost, self.max_gpu_hours)
        return any(each is not None for each in given)

    def time_limit_s(self, submitted_at: datetime) -> float | None:
        """Return the seconds from the submission within which the job ends; None without such a limit."""
        found = [] if self.finish_within_s is None else [self.finish_within_s]
        if (moment := self.finish_at) is not None:
            found.append((moment - submitted_at).total_seconds())
        return min(found, default=None)

    @property
    def gpu_limit_s(self) -> tuple[LimitKind, float] | None:
        """The tighter one of the limits on cost and GPU-hours, and the GPU-seconds that it allows."""
        found = []
        if self.max_cost is not None and self.gpu_hour_price:
            found.append((3600 * self.max_cost / self.gpu_hour_price, LimitKind.COST))
        if self.max_gpu_hours is not None:
            found.append((3600 * self.max_gpu_hours, LimitKind.GPU_HOURS))
        if not found:
            return None
        allowed_s, kind = min(found)
        return kind, allowed_s


class RaisedLimits(Document):
    """A person has changed a job's limits. They replace those of the spec and of earlier changes."""

    format_version: int = FORMAT_VERSION
    limits: Limits
    by: str
    at: str = Field(description="UTC, ISO 8601. For people.")


class LimitNotice(Document):
    """A limit is near, expected to be crossed, or reached. Each is given once, whatever drivers do."""

    format_version: int = FORMAT_VERSION
    number: int = Field(ge=0, description="Of the change that has set the limit; 0: the spec's own.")
    kind: LimitKind
    stage: Stage
    reason: str = Field(description="For people. Never quotes a prompt.")
    driver: str
    at: str = Field(description="UTC, ISO 8601.")

    @property
    def event(self) -> str:
        """Name of the event that tells about it."""
        return f"limit_{self.number}_{self.kind.replace('-', '_')}_{self.stage}"


class Pause(Document):
    """A person has paused the job, or resumed it."""

    format_version: int = FORMAT_VERSION
    by: str
    at: str = Field(description="UTC, ISO 8601. For people.")
