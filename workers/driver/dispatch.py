"""Dispatch of shards to replicas: a pure state machine, without Ray and without time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from schemas.codes import JobError, RowError
from schemas.records import ShardPlan
from workers.driver.assignment import Killer, Verdict, Work
from workers.driver.queue import Queue
from workers.driver.search import Search

DOUBT_DEATHS = 3
"""Engine deaths in a row, over any shards, before single rows are run to see whether the engine survives any row."""

CONTROL_DEATHS = 3
"""Control rows in a row that may kill the engine before it is declared broken."""

MAX_REPLICAS_PER_SHARD = 2
"""Replicas that may work on one shard at the end of the job."""

MAX_FAULTS = 3
"""Failed attempts at one shard, without an engine's death, before the job fails."""


@dataclass(slots=True)
class _Shard:
    search: Search
    staged: bool = False
    committed: bool = False
    suspect: bool = False
    strikes: int = 0
    faults: int = 0
    replicas: set[str] = field(default_factory=set)

    @property
    def is_suspected(self) -> bool:
        """Whether an engine has died while it was open: it runs alone until it commits, and is never copied."""
        return self.suspect or self.strikes > 0


@dataclass(slots=True)
class _Health:
    """Recent deaths and survivals of the engines, over the whole job."""

    survived_any: bool = False
    deaths: int = 0
    dead_controls: int = 0
    shards: set[int] = field(default_factory=set)

    def survived(self) -> None:
        self.survived_any, self.deaths, self.dead_controls = True, 0, 0
        self.shards.clear()

    def died(self, works: Iterable[Work]) -> None:
        self.deaths += 1
        for work in works:
            self.shards.add(work.shard)
            self.dead_controls += work.kind == "control"


class Dispatcher:
    """Hands the shards of a plan to replicas until all are committed.

    A shard is handed out when it is staged, not committed and on no replica. An engine's death is a strike on every
    shard that it had open; from then on the shard is a suspect, run on a replica that has nothing else open, until it
    commits. At strike `max_strikes` its rows are searched. With k killers among its n rows, engines die over a shard
    at most k + 1 + k·max(1, ⌈log₂ n⌉) times (see `Search`), once more if it was copied. Each death is one restart of
    one replica.

    Controls settle whether the rows or the engine are at fault: after `DOUBT_DEATHS` deaths in a row only single rows
    that are not suspected are handed out. If the engine survives one, it is cleared; if `CONTROL_DEATHS` in a row kill
    it, it is declared broken. When all that waits is suspected and no engine of this driver has answered a row,
    controls come from committed shards. With no row left to try, the verdict depends on whether it has answered any.

    When no shard waits and everything is staged, idle replicas also work on shards that others have open, at most
    `MAX_REPLICAS_PER_SHARD` replicas on each. Suspects and searched shards are never copied.

    Nothing here is needed for safety: a shard that is handed out twice is still committed once.

    Args:
        killers: rows that earlier drivers found to kill the engine.
        max_strikes: deaths over a shard, the last with nothing else in the engine, before its rows are searched.

    Attributes:
        verdict: why the job cannot go on; None while it can.
        num_copies: times that a replica was given a shard that another one works on.
    """

    def __init__(self, shards: Sequence[ShardPlan], killers: Iterable[Killer] = (), *, max_strikes: int = 2) -> None:
        self._shards = [_Shard(Search(shard.num_rows - shard.num_invalid_rows)) for shard in shards]
        self._weights = [shard.num_expected_tokens for shard in shards]
        self._bytes = [shard.num_bytes or 0 for shard in shards]
        self._max_strikes = max_strikes
        self._queue = Queue(shards)
        self._suspects: set[int] = set()
        self._unstaged = set(range(len(shards)))
        self._for_engines = {shard.index for shard in shards if shard.num_runnable_rows}
        self._left = len(self._shards)
        self._num_rows = [shard.num_rows for shard in shards]
        self._rows_left = sum(self._num_rows)
        self._open: dict[str, dict[int, Work]] = {}
        self._health = _Health()
        self._controls = 0
        self._found: list[Killer] = []
        self._confirmed: list[Killer] = []
        self._with_killers: set[int] = set()
        self._to_copy: list[int] | None = None
        self.num_copies = 0
        self.verdict: Verdict | None = None
        for killer in killers:
            self._health.survived_any = True  # A killer is recorded only after the engine survived another row.
            shard = self._shards[killer.shard]
            shard.search.killers[killer.place] = killer.code
            self._with_killers.add(killer.shard)
            shard.strikes = max_strikes

    @property
    def done(self) -> bool:
        """True once every shard is committed."""
        return self._left == 0

    @property
    def num_committed(self) -> int:
        """Number of committed shards."""
        return len(self._shards) - self._left

    @property
    def rows_left(self) -> int:
        """Rows of the shards that are not committed."""
        return self._rows_left

    @property
    def staged(self) -> bool:
        """True while no shard needs staging."""
        return not self._unstaged

    @property
    def needs_engine(self) -> bool:
        """True while a shard is not committed that staging does not commit itself."""
        return bool(self._for_engines)

    @property
    def num_killers(self) -> int:
        """Number of rows known to kill the engine."""
        return sum(len(self._shards[number].search.killers) for number in self._with_killers)

    def stage(self, shards: Iterable[int]) -> None:
        """Record that these shards are staged and can be read."""
        for number in shards:
            self._shards[number].staged = True
            self._unstaged.discard(number)
            if not self._shards[number].committed:
                self._for_engines.add(number)
            self._offer(number)

    def unstage(self, replica: str, work: Work) -> bool:
        """Take back a shard whose staged rows cannot be read; not a fault. Return whether to stage it again."""
        self._close(work.shard, replica)
        return self.lose_staged(work.shard)

    def lose_staged(self, number: int) -> bool:
        """Record that a shard's staged rows cannot be read. Return whether to stage it again."""
        shard = self._shards[number]
        was_staged, shard.staged = shard.staged, False
        if shard.committed or not was_staged:
            return False
        self._unstaged.add(number)
        self._discard(number)
        return True

    def closable(self, most: int) -> list[int]:
        """List shards that are staged and not committed, whatever replicas do with them."""
        open_ones = (number for number, shard in enumerate(self._shards) if shard.staged and not shard.committed)
        return list(islice(open_ones, most))

    def killers_of(self, number: int) -> dict[int, RowError]:
        """Return the places of a shard's rows that are known to kill the engine, with the codes that they get."""
        return dict(self._shards[number].search.killers)

    def take(self, replica: str) -> Work | None:
        """Return the next work for a replica; None if there is none for it now.

        A replica without any work gets suspects first, fewest strikes first; see `Queue` for the order of the others.
        """
        opened = self._open.setdefault(replica, {})
        if self.verdict is not None or any(work.alone for work in opened.values()):
            return None
        work: Work | None = None
        if self._in_doubt:
            work = self._control() if not opened else None
        elif self._suspects and not opened:
            work = self._next(min(self._suspects, key=lambda n: (self._shards[n].strikes, n)), alone=True)
        elif (innocent := self._queue.pop(replica)) is not None:
            work = self._next(innocent, alone=False)
        elif not opened:
            work = self._copy()
        if work is not None:
            self._discard(work.shard)
            self._shards[work.shard].replicas.add(replica)
            opened[work.shard] = work
            self.num_copies += work.copy
            self._to_copy = self._to_copy if work.copy else None
        return work

    def commit(self, number: int, *, engine_rows: int = 0) -> bool:
        """Record that the shard is committed, by any replica; return False if that was known.

        Args:
            engine_rows: its rows that an engine of this job has answered.
        """
        shard = self._shards[number]
        if engine_rows:
            self._survive()
        for replica in list(shard.replicas):
            self._close(number, replica)
        if shard.committed:
            return False
        shard.committed = True
        self._discard(number)
        self._unstaged.discard(number)
        self._for_engines.discard(number)
        self._left -= 1
        self._rows_left -= self._num_rows[number]
        return True

    def survived(self, replica: str, work: Work, *, num_rows: int) -> None:
        """Record that the replica's engine has answered a probe's rows.

        Args:
            num_rows: rows of the shard as the replica counts them; the plan also counts duplicates, which run once.
        """
        assert work.places is not None
        if work.places[0] < num_rows:
            self._survive()
        self._close(work.shard, replica)
        self._shards[work.shard].search.survived(work.places, num_rows)
        self._judge_search(work.shard)
        self._offer(work.shard)

    def died_among_others(self, replica: str) -> None:
        """Record that an engine died that rows of other jobs were in, too: the open shards are suspects, no more."""
        for work in self._lose(replica):
            shard = self._shards[work.shard]
            shard.suspect = True
            self._offer(work.shard)

    def died(self, replica: str, code: RowError) -> None:
        """Record that the replica's engine died or hung over its open work; rows found to cause it get `code`."""
        works = self._lose(replica)
        self._health.died(works)
        for work in works:
            shard = self._shards[work.shard]
            shard.strikes += 1
            if shard.committed:  # a control that an earlier driver's engine has answered: no row is at fault
                continue
            if work.kind != "commit" or (work.alone and shard.strikes >= self._max_strikes):
                if (place := shard.search.died(work.places, code)) is not None:
                    self._found.append(Killer(shard=work.shard, place=place, code=code))
                    self._with_killers.add(work.shard)
                self._judge_search(work.shard)
            self._offer(work.shard)
        if self._health.dead_controls >= CONTROL_DEATHS:
            self._judge(self._everywhere())

    def confirmed(self) -> list[Killer]:
        """Return the killers safe to record, as an engine has survived other rows since. Each is returned once."""
        killers, self._confirmed = self._confirmed, []
        return killers

    def give_back(self, replica: str) -> None:
        """Put back the shards of a replica that is gone without its engine's fault: node lost, or no longer wanted."""
        for work in self._lose(replica):
            self._offer(work.shard)

    def hand_back(self, replica: str, work: Work) -> None:
        """Put back one shard of a replica that takes no further rows; not a fault."""
        self._close(work.shard, replica)
        self._offer(work.shard)

    def fail(self, replica: str, work: Work) -> None:
        """Record that the replica failed to read, run or write the shard although its engine lives."""
        self._close(work.shard, replica)
        shard = self._shards[work.shard]
        if shard.committed:
            shard.staged = False  # no control comes from it again
            return
        shard.faults += 1
        if shard.faults >= MAX_FAULTS and not shard.replicas:
            self.verdict = Verdict(code=JobError.SHARD_FAILED, reason=f"Shard {work.shard} failed {shard.faults} times")
        self._offer(work.shard)

    @property
    def _in_doubt(self) -> bool:
        health = self._health
        return health.deaths >= DOUBT_DEATHS or (not health.survived_any and self.num_killers > 0)

    def _control(self) -> Work | None:
        """Pick a single row that is not suspected, from the shard with the fewest strikes."""
        waiting = [*self._queue, *self._suspects]
        if (work := self._sample(waiting)) is not None:
            return work
        if not waiting or self._unstaged or any(self._open.values()):
            return None
        # An earlier driver's engine has answered the rows of committed shards; this driver's may not have.
        if not self._health.survived_any and (work := self._sample(self._committed())) is not None:
            return work
        if not self._health.survived_any:
            self._judge(self._everywhere())
            return None
        # Only rows that died alone are left, and the engine has answered others: those rows are the killers.
        self._survive()
        return self._next(min(waiting), alone=True)

    def _sample(self, shards: Iterable[int]) -> Work | None:
        for number in sorted(shards, key=lambda n: (self._shards[n].strikes, n)):
            search = self._shards[number].search
            if (place := search.sample(self._controls)) is not None:
                self._controls += 1
                return Work(
                    shard=number, num_rows=search.num_rows, kind="control", places=(place,), excluded={}, alone=True
                )
        return None

    def _committed(self) -> list[int]:
        """List the committed shards whose staged rows can still be read."""
        return [number for number, shard in enumerate(self._shards) if shard.committed and shard.staged]

    def _copy(self) -> Work | None:
        """Pick the open shard expected to finish last: the newest on the busiest replica."""
        if self._unstaged or len(self._queue) or self._suspects:
            return None
        if self._to_copy is None:  # kept, because a thousand idle replicas ask repeatedly
            tokens = {replica: sum(self._weights[n] for n in works) for replica, works in self._open.items()}
            by_work = sorted(tokens, key=lambda replica: (-tokens[replica], replica))
            self._to_copy = [number for replica in by_work for number in reversed(self._open[replica])][::-1]
        while self._to_copy:
            number = self._to_copy.pop()
            shard = self._shards[number]
            for replica in shard.replicas if len(shard.replicas) < MAX_REPLICAS_PER_SHARD else ():
                work = self._open[replica][number]
                if work.kind == "commit" and not (work.alone or work.excluded or shard.is_suspected or shard.faults):
                    return replace(work, copy=True)
        return None

    def _next(self, number: int, *, alone: bool) -> Work:
        search = self._shards[number].search
        places = search.probe
        return Work(
            shard=number,
            num_rows=search.num_rows,
            kind="commit" if places is None else "probe",
            places=places,
            excluded={} if places is not None else dict(search.killers),
            alone=alone,
            num_bytes=self._bytes[number],
        )

    def _everywhere(self) -> str:
        health = self._health
        over = f"{len(health.shards)} shard{'' if len(health.shards) == 1 else 's'}"
        since = "and answered no row in between" if health.survived_any else "and has answered no row at all"
        return f"The engine died {health.deaths} times in a row, over {over}, {since}"

    def _survive(self) -> None:
        self._health.survived()
        self._confirmed += self._found
        self._found = []

    def _judge_search(self, number: int) -> None:
        search = self._shards[number].search
        if search.hopeless:
            self._judge(f"The engine keeps dying over shard {number}, but over no row of it alone")

    def _judge(self, reason: str) -> None:
        self.verdict = self.verdict or Verdict(code=JobError.ENGINE_DIED, reason=reason)

    def _lose(self, replica: str) -> list[Work]:
        """Forget a replica; return the work that it had open."""
        self._queue.forget(replica)
        self._to_copy = None
        works = list(self._open.pop(replica, {}).values())
        for work in works:
            self._shards[work.shard].replicas.discard(replica)
        return works

    def _close(self, number: int, replica: str) -> None:
        self._open.get(replica, {}).pop(number, None)
        self._shards[number].replicas.discard(replica)

    def _offer(self, number: int) -> None:
        shard = self._shards[number]
        if shard.staged and not shard.committed and not shard.replicas:
            self._suspects.add(number) if shard.is_suspected else self._queue.add(number)

    def _discard(self, number: int) -> None:
        self._suspects.discard(number)
        self._queue.discard(number)
