"""What `jobs schedule render` prints is taken by those who read it, and calls commands that exist."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.errors import UsageError
from jobs.schedules.manifests import cron_job
from jobs.schedules.systemd import on_calendar, systemd_units
from tests.unit.schedules.world import at, schedule_of

SCHEDULE = schedule_of(at("2026-03-01T00:00"), overlap="cancel-previous")
ROOT = 's3://bucket/jobs: 100% "mine"'


def options_exist(command: list[str]) -> bool:
    shown = CliRunner().invoke(app, [*command[:2], "--help"], terminal_width=200).output
    return all(word in shown for word in command if word.startswith("--"))


def test_cron_job() -> None:
    manifest = yaml.safe_load(cron_job(SCHEDULE, ROOT, "http://head:8265", "registry/nightbatch:1"))
    spec = manifest["spec"]
    assert (manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]) == (
        "batch/v1",
        "CronJob",
        "nightly",
    )
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("30 2 * * *", "Europe/Berlin", "Replace")
    assert spec["suspend"] is False
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [
        *("batchjobs", "schedule", "run", "nightly", "--wait", "--root", ROOT, "--address", "http://head:8265")
    ]
    assert options_exist(container["command"][1:])


def test_systemd_units() -> None:
    text = systemd_units(SCHEDULE, ROOT, None, "/usr/bin/python3")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%"))
    assert words == ["/usr/bin/python3", "-P", "-m", "jobs", "schedule", "run", "nightly", "--wait", "--root", ROOT]
    assert "OnCalendar=*-*-* 2:30:00 Europe/Berlin\n" in text


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 2 * * *", "*-*-* 2:0:00"),
        ("*/15 * * * *", "*-*-* *:0/15:00"),
        ("0,30 8-18/2 * * 1-5", "Mon..Fri *-*-* 8..18/2:0,30:00"),
        ("5 4 1 JAN,7 *", "*-1,7-1 4:5:00"),
        ("0 0 * * 0,SAT", "Sun,Sat *-*-* 0:0:00"),
    ],
)
def test_calendar_events(cron: str, expected: str) -> None:
    assert on_calendar(cron) == expected
    if program := shutil.which("systemd-analyze"):
        subprocess.run([program, "calendar", f"{expected} Europe/Berlin"], check=True, capture_output=True)


@pytest.mark.parametrize("cron", ["0 0 L * *", "0 0 * * 5#2", "0 0 1 * 1", "0 0 * * */2"])
def test_what_systemd_cannot_say_is_refused(cron: str) -> None:
    with pytest.raises(UsageError, match="systemd"):
        on_calendar(cron)
