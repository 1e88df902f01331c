"""When a schedule is due, and what its runs are called.

Daylight saving time, as in Debian's cron: a fixed time that the clocks jump over is due right after the jump, one that
they pass twice is due the first time only. Expressions with `*` in the minute or the hour go by real time: they are
due in both passes and not at all in the gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobs.errors import UsageError
from schemas.schedules import LOGICAL_DATE


class Calendar:
    """A cron expression in a time zone. All moments in and out are aware; those out are UTC.

    Raises:
        UsageError: the expression or the zone is not valid, or is never due.
    """

    def __init__(self, cron: str, tz: str) -> None:
        self._cron = cron
        try:
            self._zone = ZoneInfo(tz)
        except (KeyError, ValueError, OSError) as error:
            raise UsageError(f"{tz!r} is not a time zone.", "Give an IANA name, for example Europe/Berlin.") from error
        fields = cron.split()
        if len(fields) != 5:
            raise UsageError(
                f"The cron expression {cron!r} has {len(fields)} fields, not five.",
                "Write minute, hour, day of month, month, day of week: '0 2 * * *' is every night at two.",
            )
        try:
            next(self.after(datetime(2026, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            why = "is never due" if isinstance(error, StopIteration) else f"is not valid: {error}"
            raise UsageError(f"The cron expression {cron!r} {why}.", "See man 5 crontab.") from error
        self.once_a_day = fields[0].isdigit() and fields[1].isdigit()
        """Whether a run is named after its day alone."""

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after a moment, ascending, without end."""
        last = moment
        for due in CronSim(self._cron, moment.astimezone(self._zone)):
            # Two times in a gap end up at the same moment; in a repeated hour the first answer may lie in the past.
            if (found := due.astimezone(UTC)) > last:
                last = found
                yield found

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """The due times after one moment and not after another."""
        found = []
        for due in self.after(after):
            if due > until:
                break
            found.append(due)
        return found

    def latest(self, now: datetime) -> datetime | None:
        """The last due time up to now, looking back four years at most."""
        for days in (2, 35, 4 * 366):
            if found := self.between(now - timedelta(days=days), now):
                return found[-1]
        return None

    def local(self, due: datetime) -> datetime:
        """A due time by the schedule's own clock."""
        return due.astimezone(self._zone)

    def logical_date(self, due: datetime) -> str:
        """What the run of a due time is called: the local day, or UTC to the minute if there are several a day.

        UTC, because the clocks pass an hour twice in autumn.
        """
        return f"{self.local(due):%Y-%m-%d}" if self.once_a_day else f"{due.astimezone(UTC):%Y-%m-%dt%H%Mz}"

    def due_at(self, logical_date: str) -> datetime:
        """The due time of a logical date.

        Raises:
            UsageError: not a logical date of this schedule.
        """
        wanted = logical_date.lower()
        form = "YYYY-MM-DD" if self.once_a_day else "YYYY-MM-DDtHHMMz (UTC)"
        try:
            if not LOGICAL_DATE.fullmatch(wanted):
                raise ValueError
            day = datetime.strptime(wanted[:10], "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise UsageError(f"{logical_date!r} is not a date.", f"Write {form}.") from None
        for due in self.between(day - timedelta(days=2), day + timedelta(days=3)):
            if self.logical_date(due) == wanted:
                return due
        raise UsageError(f"The schedule has no run {wanted}: {self._cron} in {self._zone.key}.", f"Write {form}.")
