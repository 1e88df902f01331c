"""What keeps a job from going on until a person wants it to: pauses, and limits that it has reached.

Every fact is a write-once object in the job directory; see `schemas.limits` for their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args
from uuid import uuid4

from jobs.documents import read_document
from jobs.errors import StoreError
from jobs.ledger import Ledger
from schemas import keys
from schemas.limits import LimitKind, LimitNotice, Limits, Pause, RaisedLimits, Stage
from schemas.spec import JobSpec

MOST_TRIES = 100
"""Two people who change limits at the same moment number their changes one after the other."""

_NUMBERED = re.compile(r"(\d+)-(.+)\.json")
_PAUSE = re.compile(r"(\d+)(-ended)?\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The limits in force, and what has been said about them.

    Attributes:
        number: of the change that they come from; 0 are the spec's own.
        notices: kind and stage of every notice since that change.
    """

    limits: Limits
    number: int = 0
    notices: frozenset[tuple[LimitKind, Stage]] = frozenset()

    @property
    def stopped_by(self) -> LimitKind | None:
        """The limit that has stopped the job until somebody changes it; None without one."""
        return self._about("reached")

    @property
    def closed_by(self) -> LimitKind | None:
        """The limit at which the job's missing rows become error rows; None before."""
        return self._about("closed")

    def _about(self, stage: Stage) -> LimitKind | None:
        return next((kind for kind, at in sorted(self.notices) if at == stage), None)


class Holds:
    """Limits and pauses of one job. Every method may raise `StoreError`; methods that read documents also `Damaged`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._store = ledger, ledger.store

    # -- limits ---------------------------------------------------------------------------------

    def limits(self, spec: JobSpec) -> Standing:
        """Return the limits in force: those of the newest change, else the spec's."""
        names = self._names(keys.LIMITS, _NUMBERED)
        number = max((int(n) for n, rest in names if rest == "raised"), default=0)
        raised = self._raised(number) if number else None
        return Standing(
            limits=spec.limits if raised is None else raised.limits,
            number=number,
            notices=frozenset(
                notice for n, rest in names if int(n) == number and (notice := _notice(rest)) is not None
            ),
        )

    def change(self, limits: Limits, *, by: str) -> int:
        """Replace the limits in force, once; return the number of the change."""
        document = RaisedLimits(limits=limits, by=by, at=_now())
        for _ in range(MOST_TRIES):
            names = self._names(keys.LIMITS, _NUMBERED)
            number = 1 + max((int(n) for n, rest in names if rest == "raised"), default=0)
            if self._create(keys.raised_limits(number), document.to_json()):
                return number
        raise StoreError("The job's limits are being changed by others at the same time.", "Run the command again.")

    def give_notice(self, notice: LimitNotice) -> bool:
        """Record a notice; return whether it is the first such one since the limits were changed."""
        return self._create(keys.limit_notice(notice.number, notice.kind, notice.stage), notice.to_json())

    def stands_still(self, spec: JobSpec) -> bool:
        """Return whether only a person lets the job go on: it is paused, or stopped by a limit."""
        return self.paused() is not None or self.limits(spec).stopped_by is not None

    def limits_changed(self, number: int) -> bool:
        """Return whether the limits were changed after change `number`; one cheap request."""
        return self._store.head(self._ledger.key(keys.raised_limits(number + 1))) is not None

    def notices(self, standing: Standing) -> list[LimitNotice]:
        """Read the notices about the limits in force, in the order in which they were given."""
        found = []
        for kind, stage in standing.notices:
            data = self._get(keys.limit_notice(standing.number, kind, stage))
            if data is not None:
                found.append(read_document(data, f"{self._ledger.uri}/{keys.LIMITS}", LimitNotice.from_json))
        stages = get_args(Stage)
        return sorted(found, key=lambda notice: (notice.at, stages.index(notice.stage), notice.kind))

    # -- pauses ---------------------------------------------------------------------------------

    def paused(self) -> Pause | None:
        """Return the pause that stands; None if the job is not paused."""
        number, ended = self._last_pause()
        data = None if ended or not number else self._get(keys.pause(number))
        return None if data is None else read_document(data, f"{self._ledger.uri}/{keys.PAUSES}", Pause.from_json)

    def pause(self, *, by: str) -> bool:
        """Pause the job; return False if it was paused already."""
        for _ in range(MOST_TRIES):
            number, ended = self._last_pause()
            if number and not ended:
                return False
            if self._create(keys.pause(number + 1), Pause(by=by, at=_now()).to_json()):
                return True
        raise StoreError("The job is being paused and resumed by others at the same time.", "Run the command again.")

    def end_pause(self, *, by: str) -> bool:
        """End the pause; return False if the job was not paused."""
        number, ended = self._last_pause()
        if not number or ended:
            return False
        self._create(keys.pause(number, ended=True), Pause(by=by, at=_now()).to_json())
        return True

    def pauses(self) -> int:
        """Return how many pauses have ended."""
        number, ended = self._last_pause()
        return number if ended else max(0, number - 1)

    def paused_since(self, pauses: int) -> bool:
        """Return whether the job was paused after so many pauses; one cheap request. The pause may have ended."""
        return self._store.head(self._ledger.key(keys.pause(pauses + 1))) is not None

    def _last_pause(self) -> tuple[int, bool]:
        """Return the number of the last pause, 0 without any, and whether it has ended."""
        names = self._names(keys.PAUSES, _PAUSE)
        number = max((int(n) for n, _ in names), default=0)
        return number, any(int(n) == number and ended for n, ended in names)

    # -- helpers --------------------------------------------------------------------------------

    def _raised(self, number: int) -> RaisedLimits | None:
        key = keys.raised_limits(number)
        data = self._get(key)
        return None if data is None else read_document(data, f"{self._ledger.uri}/{key}", RaisedLimits.from_json)

    def _names(self, folder: str, form: re.Pattern[str]) -> Collection[tuple[str, str]]:
        names = (info.key.rpartition("/")[2] for info in self._store.list(self._ledger.key(folder)))
        return [(match[1], match[2] or "") for name in names if (match := form.fullmatch(name))]

    def _get(self, key: str) -> bytes | None:
        return self._store.get(self._ledger.key(key))

    def _create(self, key: str, data: bytes) -> bool:
        return self._store.put_new(self._ledger.key(key), data, writer=f"hold/{uuid4().hex}")


def _notice(name: str) -> tuple[LimitKind, Stage] | None:
    """Return what a notice's name says; None for any other name, which a newer version may have written."""
    kind, _, stage = name.rpartition("-")
    stages: Sequence[Stage] = get_args(Stage)
    known = next((each for each in stages if each == stage), None)
    return None if known is None or kind not in list(LimitKind) else (LimitKind(kind), known)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
