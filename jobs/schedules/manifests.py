"""Manifests that run a schedule elsewhere: a Kubernetes CronJob, or systemd units. Both call `jobs schedule run`."""

from __future__ import annotations

import json
import re
import shlex

from jobs.errors import UsageError
from schemas.schedules import Schedule

_CONCURRENCY = {"skip": "Forbid", "queue": "Allow", "cancel-previous": "Replace"}
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def cron_job(schedule: Schedule, root: str, address: str | None, image: str) -> str:
    """Return a batch/v1 CronJob as YAML. Its credentials are those of its service account, `nightbatch`."""
    command = ["batchjobs", "schedule", "run", schedule.name, "--wait", "--root", root]
    if address:
        command += ["--address", address]
    # JSON is YAML, and quotes whatever needs it.
    return f"""apiVersion: batch/v1
kind: CronJob
metadata:
  name: {json.dumps(schedule.name)}
spec:
  schedule: {json.dumps(schedule.cron)}
  timeZone: {json.dumps(schedule.tz)}
  concurrencyPolicy: {_CONCURRENCY[schedule.overlap]}
  startingDeadlineSeconds: {600 if schedule.catch_up == "none" else 86400}
  suspend: {json.dumps(schedule.suspended)}
  jobTemplate:
    spec:
      backoffLimit: 3
      podFailurePolicy:
        rules:
          - action: FailJob
            onExitCodes:
              containerName: jobs
              operator: In
              values: [1, 2, 3]
      template:
        spec:
          serviceAccountName: nightbatch
          restartPolicy: Never
          containers:
            - name: jobs
              image: {json.dumps(image)}
              command: {json.dumps(command)}
"""


def systemd_units(schedule: Schedule, root: str, address: str | None, python: str) -> str:
    """Return a service and a timer, one after the other, each with the name of its file in a comment.

    Raises:
        UsageError: the cron expression has no equivalent among systemd's calendar events.
    """
    command = [python, "-P", "-m", "jobs", "schedule", "run", schedule.name, "--wait", "--root", root]
    if address:
        command += ["--address", address]
    # systemd replaces % and $ in commands.
    line = shlex.join(command).replace("%", "%%").replace("$", "$$")
    unit = f"nightbatch-{schedule.name}"
    return f"""# {unit}.service
[Unit]
Description=Batch inference: {schedule.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={line}

# {unit}.timer
[Unit]
Description=When {unit} is due

[Timer]
OnCalendar={on_calendar(schedule.cron)} {schedule.tz}
Persistent={"false" if schedule.catch_up == "none" else "true"}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def on_calendar(cron: str) -> str:
    """Convert a cron expression to the syntax of systemd.time(7).

    Raises:
        UsageError: it has no equivalent.
    """
    minute, hour, day, month, weekday = cron.upper().split()
    if re.search(r"[L#W]", day + re.sub(r"[A-Z]{3}", "", weekday)) or (day[0] != "*" and weekday[0] != "*"):
        raise UsageError(
            f"systemd has no calendar event like {cron!r}.", "Run `jobs schedule serve` as a service instead."
        )
    for number, name in enumerate(_MONTHS, 1):
        month = month.replace(name, str(number))
    date = f"*-{_field(month, 1)}-{_field(day, 1)}"
    days = "" if weekday == "*" else f"{_weekdays(weekday)} "
    return f"{days}{date} {_field(hour, 0)}:{_field(minute, 0)}:00"


def _field(text: str, first: int) -> str:
    """Convert one numeric field: `*/5`, `1-5`, `0,30`. A step of `*` counts from the field's first value."""
    parts = []
    for part in text.split(","):
        values, slash, step = part.partition("/")
        values = f"{first}" if slash and values == "*" else values.replace("-", "..")
        parts.append(f"{values}/{step}" if slash else values)
    return ",".join(parts)


def _weekdays(text: str) -> str:
    def name(day: str) -> str:
        return _DAYS[int(day)] if day.isdigit() else day.capitalize()

    if "/" in text:
        raise UsageError(f"systemd has no steps of weekdays like {text!r}.", "List the days: 1,3,5.")
    return ",".join("..".join(map(name, part.split("-"))) for part in text.split(","))
