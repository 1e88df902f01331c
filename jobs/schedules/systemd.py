"""Systemd units that run one schedule on a machine: a service, and the timer that starts it."""

from __future__ import annotations

import re
import shlex

from jobs.errors import UsageError
from jobs.schedules.manifests import FINAL_EXITS
from schemas.schedules import Schedule

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def systemd_units(schedule: Schedule, root: str, address: str | None, python: str) -> str:
    """Return a service and a timer, one after the other, each with the name of its file in a comment.

    The service runs as the user `nightbatch`, as the units of `deploy/systemd` do. It is tried again after exit codes
    that time may mend, and then goes on where it was.

    Args:
        address: the cluster's dashboard; None is this machine's cluster, a service of its own.
        python: the interpreter that has nightbatch.

    Raises:
        UsageError: the cron expression has no equivalent among systemd's calendar events.
    """
    command = [python, "-P", "-m", "jobs", "schedule", "run", schedule.name, "--wait", "--root", root]
    if address:
        command += ["--address", address]
    # systemd replaces % and $ in commands.
    line = shlex.join(command).replace("%", "%%").replace("$", "$$")
    unit = f"nightbatch-{schedule.name}"
    needs = "Wants=network-online.target\nAfter=network-online.target"
    if not address:
        needs = "Requires=nightbatch-cluster.service\nAfter=nightbatch-cluster.service"
    hidden_home = "no" if python.startswith(("/home/", "/root/")) else "yes"
    return f"""# {unit}.service
[Unit]
Description=nightbatch: one run of the schedule {schedule.name}
{needs}
StartLimitIntervalSec=12h
StartLimitBurst=5

[Service]
Type=oneshot
User=nightbatch
StateDirectory=nightbatch
StateDirectoryMode=0700
EnvironmentFile=-/etc/nightbatch/environment
Environment=HOME=/var/lib/nightbatch JOBS_STATE_DIR=/var/lib/nightbatch/state
ExecStart={line}
Restart=on-failure
RestartSec=300
RestartPreventExitStatus={" ".join(str(int(code)) for code in FINAL_EXITS)}
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome={hidden_home}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictRealtime=yes
CapabilityBoundingSet=
UMask=0077

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
