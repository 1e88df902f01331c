"""A fleet of replicas in virtual time: the real planner cuts the job, the real dispatcher hands out its shards.

`python -m tests.bench.fleet [OUT.json] [--replicas 1000] [--rows 100000000] [--seed 1]` plays one job, with replicas
that are slow and replicas that die, and prints makespan over ideal, idle share, messages and PUTs per second. What is
modelled is time alone: how long a replica computes, loads, and takes to commit. Same seed, same numbers, except for
the seconds of CPU that plan and dispatch really took.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from jobs.planning.facts import RowFacts
from jobs.planning.shards import split
from jobs.rows.prefixes import BLOCK_TOKENS, Prefixes
from schemas.codes import RowError
from schemas.records import ShardPlan
from schemas.spec import ShardBudget
from workers.driver.assignment import Work
from workers.driver.dispatch import Dispatcher
from workers.driver.driver import TICK_S
from workers.driver.replicas import RESTART_PAUSE_S
from workers.driver.slots import MAX_OPEN_SHARDS

INPUT_TOKENS_PER_S, OUTPUT_TOKENS_PER_S = 40_000.0, 4_250.0
"""Of one replica, prefill and decoding by themselves: together they make the 13.7 rows/s of 512 in and 256 out that
InternLM2.5-20B was measured at on one H100."""

MESSAGES_PER_ATTEMPT, MESSAGES_PER_TICK = 4, 2
"""`run_shard` and `admitted`, there and back; and `counters` of each replica."""

PUTS_PER_ATTEMPT, PUTS_PER_TICK = 1, 1
"""The record of the attempt; and the progress. The commit counts by itself."""

MAX_UNITS = 1_000_000
"""Rows are planned in units of as many as make so few: the planner holds light columns of each in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weather:
    """What happens to the fleet.

    Attributes:
        deaths_per_h: of one replica; half of them are lost nodes, half are the engine's.
        slow_share: replicas that compute at `slow_speed`.
        spread: standard deviation of a replica's speed, and of a shard's real work over the planned one.
        load_s: engine start. The first replicas come up within as long.
        commit_s: from the last row of a shard to its commit.
        ahead_s: before its last row ends a shard is admitted completely, and the next one may open.
    """

    deaths_per_h: float = 0.01
    slow_share: float = 0.02
    slow_speed: float = 0.5
    spread: float = 0.05
    load_s: float = 90.0
    commit_s: float = 2.0
    ahead_s: float = 15.0


@dataclass(slots=True)
class _Replica:
    number: int
    speed: float
    life: int = 0
    free_at: float = 0.0
    up_since: float | None = None
    opened: dict[int, Work] = field(default_factory=dict)
    admitting: bool = False

    @property
    def name(self) -> str:
        return f"replica-{self.number}.{self.life}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it. Seconds are virtual, those of `cpu` are not.

    Attributes:
        ideal_s: all work over all replicas' speed from when they are first up, as if it were a fluid and nobody died.
        idle_share: of the time that replicas were up, how much they computed nothing.
        last_rows_s: how long the last 5 % of the rows took, and as a share of the makespan.
        wasted_share: of the work done, how much was lost to deaths or done twice.
    """

    rows: int
    replicas: int
    shards: int
    makespan_s: float
    ideal_s: float
    makespan_over_ideal: float
    idle_share: float
    wasted_share: float
    last_rows_s: float
    last_rows_share: float
    deaths: int
    attempts: int
    copies: int
    messages_per_s: float
    puts_per_s: float


class Fleet:
    """One job on one fleet."""

    def __init__(self, shards: tuple[ShardPlan, ...], replicas: int, weather: Weather, seed: int) -> None:
        self._chance, self._weather = Random(seed), weather
        self._shards, self._dispatcher = shards, Dispatcher(shards)
        self._dispatcher.stage(range(len(shards)))
        self._work_s = [
            (
                (shard.num_input_tokens - shard.num_cached_tokens) / INPUT_TOKENS_PER_S
                + (shard.num_expected_tokens - shard.num_input_tokens) / OUTPUT_TOKENS_PER_S
            )
            * self._around_one()
            for shard in shards
        ]
        self._replicas = [_Replica(number, self._speed()) for number in range(replicas)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = count()  # of two events at one time the one that was planned first comes first
        self._waiting: set[int] = set()
        self._now = self._busy_s = self._up_s = self._loading = 0.0
        self._deaths = self._attempts = self._copies = self._commits = 0
        self._committed_at: list[float] = [0.0] * len(shards)

    def run(self) -> Outcome:
        """Play until every shard is committed."""
        for replica in self._replicas:
            first_up_s = self._chance.uniform(0, self._weather.load_s)
            self._loading += first_up_s * replica.speed
            self._in(first_up_s, lambda replica=replica: self._up(replica))  # type: ignore[misc]
        while not self._dispatcher.done:
            assert self._dispatcher.verdict is None, self._dispatcher.verdict
            self._now, _, event = heappop(self._events)
            event()
        for replica in self._replicas:
            self._down(replica)
        return self._outcome()

    # -- what happens ---------------------------------------------------------------------------

    def _up(self, replica: _Replica) -> None:
        replica.up_since = replica.free_at = self._now
        life = replica.life
        if self._weather.deaths_per_h:
            after_s = self._chance.expovariate(self._weather.deaths_per_h / 3600)
            self._in(after_s, lambda: replica.life == life and self._die(replica))
        self._feed(replica)

    def _feed(self, replica: _Replica) -> None:
        """As `Replicas`: the next shard as soon as the one before is inside the engine."""
        self._waiting.discard(replica.number)
        if replica.up_since is None or replica.admitting or len(replica.opened) >= MAX_OPEN_SHARDS:
            return
        work = self._dispatcher.take(replica.name)
        if work is None:
            self._waiting.add(replica.number)
            return
        begin, took_s = max(self._now, replica.free_at), self._duration_s(replica, work)
        replica.free_at = begin + took_s
        replica.opened[work.shard] = work
        replica.admitting = True
        self._attempts += 1
        self._copies += work.copy
        life = replica.life
        admitted_at = max(begin, replica.free_at - self._weather.ahead_s)
        self._in(admitted_at - self._now, lambda: replica.life == life and self._admitted(replica))
        done_at = replica.free_at + self._weather.commit_s
        self._in(done_at - self._now, lambda: replica.life == life and self._done(replica, work))

    def _admitted(self, replica: _Replica) -> None:
        replica.admitting = False
        self._feed(replica)

    def _done(self, replica: _Replica, work: Work) -> None:
        if replica.opened.pop(work.shard, None) is not work:
            return  # another was first
        if work.kind == "commit":
            self._commits += 1
            if self._dispatcher.commit(work.shard, engine_rows=self._shards[work.shard].num_rows):
                self._committed_at[work.shard] = self._now
                self._abandon(work.shard)
        else:
            self._dispatcher.survived(replica.name, work, num_rows=self._shards[work.shard].num_rows)
        self._wake(replica)

    def _abandon(self, shard: int) -> None:
        """As `Replicas`: who else works on a committed shard stops. What it has opened after that comes no sooner."""
        for replica in self._replicas if self._dispatcher.num_copies else ():
            work = replica.opened.pop(shard, None)
            if work is None or replica.opened:
                continue
            if not work.copy:
                self._busy_s -= max(0.0, replica.free_at - self._now)
            replica.free_at, replica.admitting = self._now, False
            self._feed(replica)

    def _die(self, replica: _Replica) -> None:
        self._deaths += 1
        name = replica.name
        self._down(replica)
        replica.life += 1
        replica.opened, replica.admitting = {}, False
        if self._chance.random() < 0.5:
            self._dispatcher.give_back(name)
        else:
            self._dispatcher.died(name, RowError.ENGINE_CRASH)
        self._waiting.discard(replica.number)
        self._in(RESTART_PAUSE_S + self._weather.load_s, lambda: self._up(replica))
        self._wake(replica)

    def _wake(self, replica: _Replica) -> None:
        for number in [replica.number, *sorted(self._waiting)]:
            self._feed(self._replicas[number])

    def _down(self, replica: _Replica) -> None:
        if replica.up_since is not None:
            self._up_s += self._now - replica.up_since
            if not any(work.copy for work in replica.opened.values()):
                self._busy_s -= max(0.0, replica.free_at - self._now)  # what it had begun and does not finish
            replica.up_since = None

    # -- the model ------------------------------------------------------------------------------

    def _duration_s(self, replica: _Replica, work: Work) -> float:
        rows = self._shards[work.shard].num_rows
        share = 1.0 if work.places is None else len(work.places) / rows
        took_s = self._work_s[work.shard] * share / replica.speed
        if not work.copy:  # it would idle otherwise
            self._busy_s += took_s
        return took_s

    def _speed(self) -> float:
        slow = self._chance.random() < self._weather.slow_share
        return (self._weather.slow_speed if slow else 1.0) * self._around_one()

    def _around_one(self) -> float:
        return max(0.5, self._chance.gauss(1.0, self._weather.spread))

    def _in(self, seconds: float, event: Callable[[], Any]) -> None:
        heappush(self._events, (self._now + seconds, next(self._sequence), event))

    def _outcome(self) -> Outcome:
        speed = sum(replica.speed for replica in self._replicas)
        done_s = sum(self._work_s)
        ideal_s = (done_s + self._loading) / speed
        rows = np.array([shard.num_rows for shard in self._shards])
        order = np.argsort(self._committed_at)
        total = int(rows.sum())
        reached = int(np.searchsorted(np.cumsum(rows[order]), 0.95 * total))
        last_rows_s = self._now - self._committed_at[int(order[reached])]
        ticks = self._now / TICK_S
        messages = self._attempts * MESSAGES_PER_ATTEMPT + ticks * MESSAGES_PER_TICK * len(self._replicas)
        puts = self._attempts * PUTS_PER_ATTEMPT + self._commits + ticks * PUTS_PER_TICK
        mean_speed = speed / len(self._replicas)
        return Outcome(
            rows=total,
            replicas=len(self._replicas),
            shards=len(self._shards),
            makespan_s=round(self._now, 1),
            ideal_s=round(ideal_s, 1),
            makespan_over_ideal=round(self._now / ideal_s, 4),
            idle_share=round(1 - self._busy_s / self._up_s, 4),
            wasted_share=round(max(0.0, 1 - done_s / mean_speed / self._busy_s), 4),
            last_rows_s=round(last_rows_s, 1),
            last_rows_share=round(last_rows_s / self._now, 4),
            deaths=self._deaths,
            attempts=self._attempts,
            copies=self._copies,
            messages_per_s=round(messages / self._now, 1),
            puts_per_s=round(puts / self._now, 2),
        )


def plan(rows: int, seed: int, *, max_units: int = MAX_UNITS) -> tuple[ShardPlan, ...]:
    """The shards of a job with chat-like lengths, a third of its rows in prefix groups. The planner's own, of units
    of several rows where there are too many."""
    per_unit = -(-rows // max_units)
    units = rows // per_unit
    chance = np.random.default_rng(seed)
    prompts = np.clip(chance.lognormal(5.1, 1.1, units), 8, 4096)
    groups = np.where(chance.random(units) < 1 / 3, chance.integers(0, max(1, units // 500), units), -1)
    blocks = np.minimum(prompts.astype(np.int64) // BLOCK_TOKENS, 8)
    starts = np.concatenate(([0], np.cumsum(blocks)))
    row_of, depth = np.repeat(np.arange(units), blocks), np.arange(starts[-1]) - np.repeat(starts[:-1], blocks)
    keys = chance.integers(0, 2**32, int(starts[-1]), dtype=np.uint32)
    shared = groups[row_of] >= 0
    keys[shared] = (groups[row_of[shared]] * 8 + depth[shared]) * 2_654_435_761 % 2**32
    facts = RowFacts(
        num_input_tokens=(prompts * per_unit).astype(np.int32),
        num_output_tokens=np.full(units, 256 * per_unit, np.int32),
        invalid=np.zeros(units, np.bool_),
        prefixes=Prefixes(keys=keys, starts=starts),
        same_as=np.arange(units),
    )
    budget = ShardBudget(max_rows=max(1, ShardBudget().max_rows // per_unit))
    return tuple(shard.evolve(num_rows=shard.num_rows * per_unit) for shard in split(facts, budget).shards)


def main() -> None:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10**8)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.process_time()
    shards = plan(given.rows, given.seed)
    planned_s = time.process_time() - began
    report: dict[str, Any] = {"plan_cpu_s": round(planned_s, 1), "seed": given.seed}
    for name, weather in (("calm", Weather(deaths_per_h=0, slow_share=0)), ("stormy", Weather())):
        began = time.process_time()
        outcome = Fleet(shards, given.replicas, weather, given.seed).run()
        took_s = round(time.process_time() - began, 1)
        report[name] = {"weather": asdict(weather), **asdict(outcome), "simulation_cpu_s": took_s}
    text = json.dumps(report, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
