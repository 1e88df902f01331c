"""Due times of a schedule, and names of its runs.

Daylight saving time works as in Debian's cron: a fixed time that the clocks skip is due right after the jump, and a
fixed time that occurs twice is due the first time only. The run keeps the day that the expression names, even if the
jump ends on another day; a day that the clocks skip entirely has no run. Expressions with `*` in the minute or the hour
follow real time: they are due both times, and not at all in the gap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobs.errors import UsageError
from schemas.schedule_keys import LOGICAL_DATE

_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)


class Calendar:
    """A cron expression in a time zone. It takes aware datetimes, and its due times are in UTC.

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
        self._real_time = fields[0].startswith("*") or fields[1].startswith("*")
        try:
            next(self.after(datetime(2026, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            why = "is never due" if isinstance(error, StopIteration) else f"is not valid: {error}"
            raise UsageError(f"The cron expression {cron!r} {why}.", "See man 5 crontab.") from error
        self.once_a_day = fields[0].isdigit() and fields[1].isdigit()
        """Whether the runs are named after their day alone."""

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the due times after a moment, ascending, without end."""
        return (due for due, _ in self._occurrences(moment))

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the due times after one moment, up to and including another."""
        found = []
        for due in self.after(after):
            if due > until:
                break
            found.append(due)
        return found

    def latest(self, now: datetime) -> datetime | None:
        """Return the last due time up to now, looking back four years at most."""
        for days in (2, 35, 4 * 366):
            if found := self.between(now - timedelta(days=days), now):
                return found[-1]
        return None

    def local(self, due: datetime) -> datetime:
        """Convert a due time to the schedule's time zone."""
        return due.astimezone(self._zone)

    def nominal(self, due: datetime) -> datetime:
        """Return the time that the expression names for a due time: local time, without a zone.

        It differs from `local` if the clocks skip it.
        """
        if not self._real_time:
            found, named = next(self._occurrences(due - timedelta(seconds=1)))
            if found == due:
                return named
        return self.local(due).replace(tzinfo=None)

    def logical_date(self, due: datetime) -> str:
        """Return the name of a due time's run: its nominal day, or UTC to the minute if there are several a day.

        UTC, because one hour of local time occurs twice in autumn.
        """
        return f"{self.nominal(due):%Y-%m-%d}" if self.once_a_day else f"{due.astimezone(UTC):%Y-%m-%dt%H%Mz}"

    def due_at(self, logical_date: str) -> datetime:
        """Return the due time of a logical date.

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

    def _occurrences(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield the due times after a moment, ascending, each with its nominal time."""
        last = moment
        waiting: list[tuple[datetime, datetime]] = []
        # A time that occurs again after the moment may have occurred first up to a day before.
        for named in CronSim(self._cron, self.local(moment).replace(tzinfo=None) - _DAY):
            found = self._passes(named)
            for due in found:
                heapq.heappush(waiting, (due, named))
            while found and waiting and waiting[0][0] <= found[0]:
                due, named_before = heapq.heappop(waiting)
                # Two times in a gap are due at the same moment.
                if due > last:
                    last = due
                    yield due, named_before

    def _passes(self, named: datetime) -> list[datetime]:
        """Return when a time without a zone is due: usually once."""
        first, second = (named.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if self.local(first).replace(tzinfo=None) == named:
            return [first, second] if self._real_time and second > first else [first]
        # In a gap, the offset from before it gives a moment after it, and the offset from after it a moment before it.
        if self._real_time:
            return []
        jump = self._change(second, first)
        begins = self.local(jump - _SECOND).replace(tzinfo=None) + _SECOND
        ends = self.local(jump).replace(tzinfo=None)
        midnight = named.replace(hour=0, minute=0)
        return [] if begins <= midnight and midnight + _DAY <= ends else [jump]

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the first moment with the UTC offset of `after` instead of that of `before`."""
        old = self.local(before).utcoffset()
        while after - before > _SECOND:
            middle = before + (after - before) // 2 // _SECOND * _SECOND
            if self.local(middle).utcoffset() == old:
                before = middle
            else:
                after = middle
        return after
