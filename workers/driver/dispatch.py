"""Which replica works on what: a pure state machine, without Ray and without time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from schemas.codes import JobError, RowError
from schemas.records import ShardPlan
from workers.driver.queue import Queue
from workers.driver.search import Search

DOUBT_DEATHS = 3
"""Engine deaths in a row, over whatever, before single rows are run to see whether the engine survives anything."""

CONTROL_DEATHS = 3
"""Such single rows that may kill the engine in a row before it is called broken."""

MAX_REPLICAS_PER_SHARD = 2
"""Replicas that may work on one shard at the end of the job."""

MAX_FAULTS = 3
"""Tries of a shard that may fail without an engine's death before the job does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a replica is to do with a shard.

    Attributes:
        num_rows: valid rows of the shard.
        num_bytes: what its staged rows take in memory, as far as that is known.
        kind: `commit`: all rows but the excluded, through to the commit. `probe`: the rows at `places` alone, to see
            whether the engine survives them; nothing is committed. `control`: likewise, a row that is not suspected.
        excluded: place and code of the rows that are not run because they kill the engine: they become error rows.
        alone: the replica does nothing else meanwhile, so that it is known what its engine dies of.
        copy: another replica works on the shard, too; the first to commit it wins.
    """

    shard: int
    num_rows: int
    kind: Literal["commit", "probe", "control"]
    places: tuple[int, ...] | None
    excluded: Mapping[int, RowError]
    alone: bool
    copy: bool = False
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Killer:
    """A row that kills the engine: `place` among the shard's valid rows."""

    shard: int
    place: int
    code: RowError


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Why the job cannot go on. `reason` has no end: the engine's last words follow."""

    code: JobError
    reason: str


@dataclass(slots=True)
class _Shard:
    search: Search
    staged: bool = False
    committed: bool = False
    strikes: int = 0
    faults: int = 0
    replicas: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Health:
    """What the engines have survived and died of lately, over the whole job."""

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
    """The shards of a plan on their way to being committed.

    A shard is handed out when it is staged, not committed and on no replica. An engine's death is a strike on every
    shard that it had open; from then on such a shard is a suspect, run on a replica that has nothing else open. One
    that commits is cleared. At the second strike its rows are searched. With k killers among its n rows, engines die
    over a shard at most k + 1 + k·max(1, ⌈log₂ n⌉) times (see `Search`), once more if it was copied: each death is one
    restart of one replica.

    Whether the rows or the engine are at fault is settled by controls: after `DOUBT_DEATHS` deaths in a row nothing is
    handed out but single rows that are not suspected. One that survives clears the engine; `CONTROL_DEATHS` that die
    in a row are the verdict on the engine. With no row left to try, it depends on whether it has ever answered one.

    When nothing waits any more and everything is staged, idle replicas work on the open shards of others, too, each
    shard on at most `MAX_REPLICAS_PER_SHARD`. Suspects and searched shards are never copied.

    Nothing here is needed for safety: a shard that is handed out twice is still committed once.

    Args:
        killers: what earlier drivers have found.
        max_strikes: deaths over a shard, the last with nothing else in the engine, before its rows are searched.

    Attributes:
        verdict: why the job cannot go on, if so.
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
        self._left = len(self._shards)
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
            self._health.survived_any = True  # Whoever found it has seen the engine survive another row.
            shard = self._shards[killer.shard]
            shard.search.killers[killer.place] = killer.code
            self._with_killers.add(killer.shard)
            shard.strikes = max_strikes

    @property
    def done(self) -> bool:
        """Whether every shard is committed."""
        return self._left == 0

    @property
    def num_committed(self) -> int:
        """Committed shards."""
        return len(self._shards) - self._left

    @property
    def staged(self) -> bool:
        """Whether no shard needs staging any more."""
        return not self._unstaged

    @property
    def num_killers(self) -> int:
        """Rows that are known to kill the engine."""
        return sum(len(self._shards[number].search.killers) for number in self._with_killers)

    def stage(self, shards: Iterable[int]) -> None:
        """These shards' rows can be read."""
        for number in shards:
            self._shards[number].staged = True
            self._unstaged.discard(number)
            self._offer(number)

    def unstage(self, replica: str, work: Work) -> bool:
        """The replica cannot read the shard's rows, which is nobody's fault; whether they have to be staged again."""
        self._close(work.shard, replica)
        shard = self._shards[work.shard]
        if shard.committed or not shard.staged:
            return False
        shard.staged = False
        self._unstaged.add(work.shard)
        self._discard(work.shard)
        return True

    def take(self, replica: str) -> Work | None:
        """The next work for a replica; None if there is none for it now.

        To a replica without any work suspects go first, those with the fewest strikes before others; for the order of
        the other shards see `Queue`.
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
        """The shard is committed, whoever did it; False if that was known.

        Args:
            engine_rows: rows of it that an engine of this job has answered.
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
        self._left -= 1
        return True

    def survived(self, replica: str, work: Work, *, num_rows: int) -> None:
        """The replica's engine has answered a probe's rows.

        Args:
            num_rows: of the shard, as the replica counts them: a plan counts equal rows, which are run once.
        """
        assert work.places is not None
        if work.places[0] < num_rows:
            self._survive()
        self._close(work.shard, replica)
        self._shards[work.shard].search.survived(work.places, num_rows)
        self._judge_search(work.shard)
        self._offer(work.shard)

    def died(self, replica: str, code: RowError) -> None:
        """The replica's engine died or hung over what it had open: `code` is what a row gets that does it."""
        self._queue.forget(replica)
        self._to_copy = None
        works = list(self._open.pop(replica, {}).values())
        self._health.died(works)
        for work in works:
            shard = self._shards[work.shard]
            shard.replicas.discard(replica)
            shard.strikes += 1
            if work.kind != "commit" or (work.alone and shard.strikes >= self._max_strikes):
                if (place := shard.search.died(work.places, code)) is not None:
                    self._found.append(Killer(shard=work.shard, place=place, code=code))
                    self._with_killers.add(work.shard)
                self._judge_search(work.shard)
            self._offer(work.shard)
        if self._health.dead_controls >= CONTROL_DEATHS:
            self._judge(self._everywhere())

    def confirmed(self) -> list[Killer]:
        """Killers that may be remembered: an engine has survived other rows since. Each is told once."""
        killers, self._confirmed = self._confirmed, []
        return killers

    def give_back(self, replica: str) -> None:
        """The replica is gone through no fault of its engine: its node was lost, or it is not wanted any more."""
        self._queue.forget(replica)
        self._to_copy = None
        for number in self._open.pop(replica, {}):
            self._shards[number].replicas.discard(replica)
            self._offer(number)

    def fail(self, replica: str, work: Work) -> None:
        """The replica could not read, run or write the shard, though its engine lives."""
        self._close(work.shard, replica)
        shard = self._shards[work.shard]
        if shard.committed:
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
        """A single row that is not suspected, of a shard with few strikes."""
        waiting = [*self._queue, *self._suspects]
        for number in sorted(waiting, key=lambda n: (self._shards[n].strikes, n)):
            search = self._shards[number].search
            if (place := search.sample(self._controls)) is not None:
                self._controls += 1
                return Work(
                    shard=number, num_rows=search.num_rows, kind="control", places=(place,), excluded={}, alone=True
                )
        if not waiting or self._unstaged or any(self._open.values()):
            return None
        if not self._health.survived_any:
            self._judge(self._everywhere())
            return None
        # Nothing is left but rows that died alone, and the engine has answered others: they are what kills.
        self._survive()
        return self._next(min(waiting), alone=True)

    def _copy(self) -> Work | None:
        """The shard that another replica is likeliest to end last with: the newest of the one with the most to do."""
        if self._unstaged or len(self._queue) or self._suspects:
            return None
        if self._to_copy is None:  # kept, because a thousand idle replicas ask again and again
            tokens = {replica: sum(self._weights[n] for n in works) for replica, works in self._open.items()}
            by_work = sorted(tokens, key=lambda replica: (-tokens[replica], replica))
            self._to_copy = [number for replica in by_work for number in reversed(self._open[replica])][::-1]
        while self._to_copy:
            number = self._to_copy.pop()
            shard = self._shards[number]
            for replica in shard.replicas if len(shard.replicas) < MAX_REPLICAS_PER_SHARD else ():
                work = self._open[replica][number]
                if work.kind == "commit" and not (work.alone or work.excluded or shard.strikes or shard.faults):
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

    def _close(self, number: int, replica: str) -> None:
        self._open.get(replica, {}).pop(number, None)
        self._shards[number].replicas.discard(replica)

    def _offer(self, number: int) -> None:
        shard = self._shards[number]
        if shard.staged and not shard.committed and not shard.replicas:
            self._suspects.add(number) if shard.strikes else self._queue.add(number)

    def _discard(self, number: int) -> None:
        self._suspects.discard(number)
        self._queue.discard(number)
