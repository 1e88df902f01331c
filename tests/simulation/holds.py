"""Checks of jobs that are held: nobody but a person lets them go on, and rows at a limit are so only for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas import keys
from schemas.codes import AT_LIMIT
from schemas.records import Attempt
from tests.support.stored import Stored, read_rows

if TYPE_CHECKING:
    from tests.simulation.histories import Run


def check_holds(run: Run, stored: Stored) -> None:
    """Check that nobody but a person lets a held job go on, and that rows at a limit are so only for it.

    A driver that was started while a job is held tries no shard before the hold ends.
    """
    violation = run.world.violation
    for began_s, ended_s, what in _holds(run):
        late = {driver.id for driver in run.drivers if began_s < driver.started_s < ended_s}
        for change in run.world.bucket.changes:
            if f"/{keys.ATTEMPTS}" in change.key and began_s < change.at_s < ended_s:
                attempt = Attempt.from_json(change.data)
                if attempt.driver in late:
                    violation(f"holds: {attempt.driver} works on shard {attempt.shard} although the job is {what}")
    closed = any(key.endswith("-closed.json") for key in stored.below(keys.LIMITS))
    for key in stored.below(keys.RESULTS):
        codes = set(read_rows(stored.objects[key])["error_code"].to_pylist())
        if codes & AT_LIMIT and not closed:
            violation(f"limits: {key} has rows at a limit that was not reached")


def _holds(run: Run) -> list[tuple[float, float, str]]:
    """Return when the job was paused or stopped by a limit, from the requests that the bucket has seen."""
    at = {change.key.removeprefix("root/job/"): change.at_s for change in run.world.bucket.changes}
    never = float("inf")
    found = []
    for key, began_s in at.items():
        if key.startswith(keys.PAUSES) and not key.endswith("-ended.json"):
            found.append((began_s, at.get(key.replace(".json", "-ended.json"), never), "paused"))
        if key.startswith(keys.LIMITS) and key.endswith("-reached.json"):
            number = int(key.removeprefix(keys.LIMITS)[:5])
            found.append((began_s, at.get(keys.raised_limits(number + 1), never), "stopped by a limit"))
    return found
