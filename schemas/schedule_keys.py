"""Names and keys of what schedules keep in the object store, and the job ids of their runs; see `schemas.schedules`."""

from __future__ import annotations

import re

SCHEDULES = "_schedules/"
SCHEDULE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?")
"""Short enough that `<name>-<logical date>-r<round>` is a job id."""

LOGICAL_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(t\d{4}z)?")
"""`2026-03-29`, or `2026-03-29t0130z` (UTC) where a schedule runs several times a day."""

_JOB_OF_RUN = re.compile(rf"(?P<name>{SCHEDULE_NAME.pattern})-(?P<date>{LOGICAL_DATE.pattern})(-r(?P<round>\d+))?")


def schedule_key(name: str) -> str:
    """Key of a schedule."""
    return f"{SCHEDULES}{name}/schedule.json"


def runs_key(name: str) -> str:
    """Folder of a schedule's runs: one folder per logical date, in time order."""
    return f"{SCHEDULES}{name}/runs/"


def run_key(name: str, logical_date: str, round_: int, document: str) -> str:
    """Key of one of a run's documents."""
    return f"{runs_key(name)}{logical_date}/{round_:02d}/{document}.json"


def published_key(name: str, logical_date: str = "", round_: int = 1) -> str:
    """Key of the publication of one round of a date, or their common folder. Keys sort by date and round."""
    later = f"_r{round_:02d}" if round_ > 1 else ""
    return f"{SCHEDULES}{name}/published/" + (f"{logical_date}{later}.json" if logical_date else "")


def published_date(key: str) -> str:
    """The logical date in a key that `published_key` makes."""
    return key.rpartition("/")[2].removesuffix(".json").partition("_")[0]


def reopened_key(name: str, date_and_round: str = "") -> str:
    """Key of the mark that a date has a further round, or the marks' common folder."""
    return f"{SCHEDULES}{name}/reopened/" + (f"{date_and_round}.json" if date_and_round else "")


def latest_key(name: str) -> str:
    """Key of the pointer that readers follow."""
    return f"{SCHEDULES}{name}/latest.json"


def job_id_of(name: str, logical_date: str, round_: int = 1) -> str:
    """Job id of a run. The first round's follows from the date alone, so that two schedulers submit one job."""
    return f"{name}-{logical_date}" + (f"-r{round_}" if round_ > 1 else "")


def run_of_job(job_id: str) -> tuple[str, str, int] | None:
    """Return schedule, logical date and round that `job_id_of` gives this id; None if there are none."""
    found = _JOB_OF_RUN.fullmatch(job_id)
    return (found["name"], found["date"], int(found["round"] or 1)) if found else None
