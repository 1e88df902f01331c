"""What schedules keep in the object store, beside the job directories. Other tools skip names that start with `_`.

    _schedules/<name>/schedule.json                  when to run what; overwritten by people only
    _schedules/<name>/runs/<date>/<round>/run.json   write-once: this run is to happen, with this spec and job id
                                   .../late.json     write-once: its deadline has passed
                                   .../retry-1.json  write-once: its job was found interrupted
                                   .../retry-1-started.json  write-once: who resumes it
                                   .../outcome.json  write-once: how it ended
                                   .../sent-<event>-<hook>.json  write-once: a notification was delivered
    _schedules/<name>/reopened/<date>.<round>.json   write-once: this date has such a round
    _schedules/<name>/published/<date>.json          write-once: the results of this date may be read
                           .../<date>_r<round>.json  write-once: those of a later round, which count from then on
    _schedules/<name>/latest.json                    the newest of these, by date and round

`<date>` is the logical date, `<round>` grows when a person runs a date again whose run did not succeed, or repairs its
job.
Everything about a run's job is in the job's own ledger.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.pools import Placement
from schemas.records import CrossedGate, InputTable, Quality
from schemas.schedule_keys import SCHEDULE_NAME
from schemas.spec import LAST_GOOD, JobSpec

Overlap = Literal["skip", "queue", "cancel-previous"]
CatchUp = Literal["none", "latest", "all"]
End = Literal["succeeded", "gate", "failed", "late", "cancelled", "skipped"]
"""How a run ends, and the kinds of events. A run that goes on after its deadline has a `late` event before its end."""

Notified = Literal["succeeded", "gate", "failed", "late", "cancelled", "skipped", "limit"]
"""Kinds of events: how a run ends, and that a limit of its job is near, expected to be crossed, or reached."""


class Webhook(Document):
    """A place to post events to. The secret itself is never stored."""

    url: str = Field(pattern=r"^https?://", max_length=2000)
    secret_env: str | None = Field(None, description="Environment variable of the scheduler that holds the secret.")
    secret_path: str | None = Field(None, description="Or a file on its machine.")


class Retention(Document):
    """Which of a schedule's jobs are deleted: those that both limits let go. The latest good run always stays."""

    keep_for_s: float | None = Field(None, gt=0, description="How long a job stays after its end.")
    keep_newest: int | None = Field(None, ge=1, description="The newest so many jobs stay, however old.")
    keep_results: bool = Field(False, description="Only logs, attempts and staged rows go; results stay.")

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.keep_for_s is None and self.keep_newest is None:
            raise ValueError("retention needs an age or a number")
        return self


class Schedule(Document):
    """When to run what."""

    format_version: int = FORMAT_VERSION
    name: str
    cron: str = Field(description="Five fields: minute, hour, day of month, month, day of week.")
    tz: str = Field("UTC", description="IANA name of the time zone that `cron` speaks of.")
    spec: JobSpec = Field(description="Inputs and `export.targets` may be templated: s3://in/{{ date }}/.")
    wait_for: str | None = Field(
        None,
        description="Templated address that must exist before a run starts, or a table that must have new rows.",
    )
    export: str | None = Field(None, description="The one target of older versions; see `spec.export`.")
    placement: Placement | None = Field(None, description="The pool that its jobs compute in, and their claim there.")
    overlap: Overlap = Field("skip", description="What happens to a run that is due while an earlier one is not done.")
    catch_up: CatchUp = Field("latest", description="Which missed runs are caught up.")
    max_catch_up: int = Field(7, ge=1, le=366, description="At most so many, the newest.")
    deadline_s: float | None = Field(None, gt=0, description="After which a run is late, from its opening.")
    cancel_late: bool = Field(False, description="Cancel a late run instead of letting it go on.")
    input_deadline_s: float = Field(6 * 3600.0, ge=0, description="How long a run waits for its input.")
    retries: int = Field(3, ge=0, le=100, description="How often an interrupted job is resumed.")
    retry_backoff_s: float = Field(60.0, ge=0, description="Pause before the first of them; it doubles with each.")
    webhooks: tuple[Webhook, ...] = ()
    notify_on: tuple[Notified, ...] = ("succeeded", "gate", "failed", "late", "limit")
    retention: Retention | None = Field(None, description="Which of its jobs are deleted; null: none.")
    suspended: bool = False
    since: AwareDatetime = Field(description="Only occurrences after this are run.")
    created_at: AwareDatetime

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not SCHEDULE_NAME.fullmatch(name):
            raise ValueError("a schedule's name has at most 60 lower-case letters, digits and dashes inside")
        return name


class Run(Document):
    """One run of a schedule, frozen when it is opened."""

    format_version: int = FORMAT_VERSION
    schedule: str
    logical_date: str
    round: int = Field(1, ge=1)
    due_at: AwareDatetime
    opened_at: AwareDatetime
    by: Literal["schedule", "hand"] = "schedule"
    catch_up: bool = Field(False, description="It was missed: it waits for earlier runs whatever the overlap policy.")
    job_id: str
    spec: JobSpec = Field(description="Its exports are the scheduler's: the job is submitted without them.")
    wait_for: str | None = None
    wait_since: AwareDatetime | None = Field(
        None, description="A table that is waited for must have been committed to after this: the due time before."
    )
    export: str | None = Field(None, description="Of older versions: see `spec.export`.")
    placement: Placement | None = None

    @property
    def takes_new_rows(self) -> bool:
        """Whether it computes only rows that are new since the last good run; which one is told at its submission."""
        return LAST_GOOD in self.spec.input.since


class Retry(Document):
    """A run's job was found interrupted."""

    number: int = Field(ge=1)
    noticed_at: AwareDatetime
    started_at: AwareDatetime | None = Field(None, description="In `retry-N-started.json` only.")
    reason: str = Field("", description="Why, and what to do about it, for people. Never quotes a prompt.")


class Late(Document):
    """A run's deadline has passed."""

    at: AwareDatetime


class RunOutcome(Document):
    """How a run ended."""

    format_version: int = FORMAT_VERSION
    kind: End
    at: AwareDatetime
    reason: str = Field("", description="For people; empty for success. Never quotes a prompt.")
    num_rows: int | None = None
    num_error_rows: int | None = None
    crossed_gates: tuple[CrossedGate, ...] = ()
    quality: Quality | None = Field(None, description="Of a run whose job has a result for every row.")


class Pointer(Document):
    """Results that may be read. `latest.json` is the one of the newest logical date and of its newest round, and never
    goes backwards."""

    format_version: int = FORMAT_VERSION
    schedule: str
    logical_date: str
    job_id: str
    uri: str = Field(description="The job directory; results are in `results/` below it.")
    export: str | None = Field(None, description="Where the results were exported to; the first of several places.")
    exports: tuple[str, ...] = Field((), description="All of these places.")
    tables: tuple[InputTable, ...] | None = Field(
        None, description="Tables that its job has read, with their versions; null: an older version did not note them."
    )
    num_rows: int
    num_error_rows: int
    published_at: AwareDatetime


class Sent(Document):
    """A notification was delivered."""

    event_id: str
    at: AwareDatetime


class Event(Document):
    """What a notification says."""

    id: str = Field(description="The same on every delivery of this event.")
    type: Notified
    schedule: str
    logical_date: str
    round: int
    job_id: str
    job_uri: str
    due_at: AwareDatetime
    at: AwareDatetime
    reason: str = ""
    num_rows: int | None = None
    num_error_rows: int | None = None
    crossed_gates: tuple[CrossedGate, ...] = ()
    quality: Quality | None = Field(None, description="Finish reasons, JSON validity, warnings about both.")
    export: str | None = None
    exports: tuple[str, ...] = ()


def event_id(run: Run, name: str) -> str:
    """Id of an event: the same whoever delivers it, and however often. `name` is how it is noted as sent."""
    return f"{run.schedule}/{run.logical_date}/{run.round}/{name}"


def utc(moment: datetime) -> str:
    """A moment as people read it: UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
