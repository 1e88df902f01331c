"""Fair shares of one engine among jobs. Pure: no time, no input, no output.

Classes come strictly one after the other, but each lower class with rows that wait gets at least `FLOOR` of the tokens.
Within a class it is weighted fair queueing: the job goes next whose tokens over its weight are the fewest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from schemas.pools import FLOOR, PRIORITIES, Priority


@dataclass(slots=True)
class _Member:
    priority: Priority
    weight: float
    used: float = 0.0
    """Computed tokens over the weight, and what it gave up while it had nothing to compute."""
    left_at: int = -1
    """Rows of all jobs that had entered when it last stopped waiting."""


class Entered(NamedTuple):
    """How a row has entered.

    Attributes:
        is_owed: before rows of a higher class, on what its class is owed.
        lower: classes whose rows waited behind one of a higher class then: they have a part in the row's tokens.
    """

    is_owed: bool
    lower: tuple[Priority, ...]


class Shares:
    """Decides whose row enters next, by the tokens that each job has had."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._owed: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)
        self._waiting: dict[str, None] = {}
        self._paused: dict[str, None] = {}
        self._entered = 0

    def join(self, job: str, priority: Priority, weight: float) -> None:
        """Add a job."""
        self._members[job] = _Member(priority, weight)

    def leave(self, job: str) -> None:
        """Remove a job."""
        self.ends_waiting(job)
        self._members.pop(job, None)

    def waits(self, job: str) -> None:
        """Record that a row of the job waits. What others were given while none did is lost, not saved up."""
        member = self._members[job]
        if job not in self._waiting and job not in self._paused and member.left_at != self._entered:
            others = [self._members[each].used for each in self._of_class(member.priority)]
            member.used = max(member.used, min(others, default=member.used))
        self._paused.pop(job, None)
        self._waiting[job] = None

    def pauses(self, job: str) -> None:
        """Record that no row of the job waits, and that the next one comes in a moment: others enter meanwhile, and the
        job catches up.
        """
        self._waiting.pop(job, None)
        self._paused[job] = None

    def ends_waiting(self, job: str) -> None:
        """Record that no row of the job waits any more."""
        if job not in self._waiting and job not in self._paused:
            return
        self._waiting.pop(job, None)
        self._paused.pop(job, None)
        member = self._members[job]
        member.left_at = self._entered
        if not any(self._members[each].priority == member.priority for each in (*self._waiting, *self._paused)):
            self._owed[member.priority] = min(0, self._owed[member.priority])  # nothing is owed to a class without rows

    def next(self) -> str | None:
        """Return the job whose row enters next; None if none waits."""
        classes = self._classes()
        if not classes:
            return None
        owed = [priority for priority in classes[1:] if self._owed[priority] > 0]
        served = max(owed, key=lambda priority: self._owed[priority], default=classes[0])
        return min(self._of_class(served), key=lambda job: self._members[job].used)

    def enters(self, job: str, tokens: float) -> Entered:
        """Record that the job's waiting row enters, and count the tokens that are expected of it."""
        self._entered += 1
        first, *lower = self._classes()
        entered = Entered(self._members[job].priority != first, tuple(lower))
        self._owed[first] = 0.0
        self.charge(job, tokens, entered)
        return entered

    def charge(self, job: str, tokens: float, entered: Entered) -> None:
        """Count tokens of a row that has entered; a negative number takes back what was expected too much."""
        member = self._members.get(job)
        if member is None:
            return
        member.used += tokens / member.weight
        for priority in self._classes()[1:]:
            if priority in entered.lower:
                self._owed[priority] += FLOOR * tokens
        if entered.is_owed:
            self._owed[member.priority] -= tokens

    def charge_elsewhere(self, job: str, tokens: float) -> None:
        """Count tokens that other engines of the pool have computed for the job."""
        if (member := self._members.get(job)) is not None:
            member.used += tokens / member.weight

    def _of_class(self, priority: Priority) -> list[str]:
        return [job for job in self._waiting if self._members[job].priority == priority]

    def _classes(self) -> list[Priority]:
        """List the classes in which rows wait, in the order of service."""
        return [priority for priority in PRIORITIES if self._of_class(priority)]
