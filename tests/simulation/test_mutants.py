"""Plants a bug that breaks a rule of the protocol, one for each rule: the simulation must notice every one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest
import tenacity.nap

from jobs.errors import StoreError
from jobs.ledger import Commit, Ledger
from jobs.salvage import Salvage
from jobs.staged import Staged
from jobs.store import s3_client
from jobs.store.s3 import S3Store
from schemas import keys
from schemas.commits import ShardStats
from schemas.records import Cancelled, Manifest, Plan, Succeeded
from tests.simulation.bucket import Bucket
from tests.simulation.histories import draw
from tests.simulation.runner import Broken, Simulator
from workers.driver import entry
from workers.driver.dispatch import Dispatcher
from workers.driver.driver import Driver
from workers.driver.search import Search
from workers.shards import salvaged
from workers.shards.results import salvaged_rows

TRIES = 200
"""Histories within which a mutant must be noticed."""

put_object, put_new, end, finish = Bucket.put_object, S3Store.put_new, Ledger.end, Driver._finish
commit, create_plan = Ledger.commit, Ledger.create_plan
died, next_work = Search.died, Dispatcher._next


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A broken rule.

    Attributes:
        where: the class or module whose `name` is replaced by `bug`.
        noticed_as: what the simulation must say, as a regular expression.
    """

    rule: str
    where: Any
    name: str
    bug: Any
    noticed_as: str
    further: tuple[tuple[Any, str, Any], ...] = ()


def commits_without_condition(self: Bucket, **request: Any) -> Any:
    if "/results/" in request["Key"]:
        request.pop("IfNoneMatch", None)
    return put_object(self, **request)


def _is_probe(key: str) -> bool:
    """Return whether a key is the store probe's: `submit` probes first, and finds these bugs before there is a job."""
    return key.startswith("_probe/")


def takes_every_refusal_for_success(self: S3Store, key: str, data: bytes, *, writer: str, **rest: Any) -> bool:
    return put_new(self, key, data, writer=writer, **rest) or not _is_probe(key)


def takes_another_winner_for_a_fault(self: S3Store, key: str, data: bytes, *, writer: str, **rest: Any) -> bool:
    created = put_new(self, key, data, writer=writer, **rest)
    if not created and not _is_probe(key):
        raise StoreError(f"{key} exists.")
    return created


def retries_as_another_writer(
    self: S3Store, key: str, data: bytes, *, writer: str, metadata: Mapping[str, str] | None = None
) -> bool:
    if _is_probe(key):
        return put_new(self, key, data, writer=writer, metadata=metadata)
    impatient = S3Store(self._bucket, self._root)
    impatient._s3 = s3_client.S3Client(patience_s=1e-9)
    for number in range(1000):
        try:
            return put_new(impatient, key, data, writer=f"{writer}-{number}", metadata=metadata)
        except StoreError:
            tenacity.nap.sleep(1.0)
    raise StoreError("away")


def is_done_one_shard_early(self: Dispatcher) -> bool:
    return self._left <= 1


async def finishes_without_counting(self: Driver) -> Any:
    assert self._plan is not None
    shards = tuple(await asyncio.to_thread(self._commits))
    manifest = Manifest(
        job_id=self._ledger.job_id,
        plan_sha256=self._plan.digest(),
        shards=shards,
        num_rows=self._plan.num_rows,
        num_error_rows=0,
        num_input_tokens=0,
        num_generated_tokens=0,
    )
    return await self._end(Succeeded(manifest=manifest))


def cancel_overwrites(self: Ledger, record: Any, *, writer: str) -> Any:
    if isinstance(record, Cancelled):
        self.store.put(self.key(keys.TERMINAL), record.to_json())
        return record
    return end(self, record, writer=writer)


def believes_its_own_record(self: Ledger, record: Any, *, writer: str) -> Any:
    end(self, record, writer=writer)
    return record


def publishes_before_the_record(self: Ledger, record: Any, *, writer: str) -> Any:
    if isinstance(record, Succeeded):
        self.publish(record.manifest, writer=writer)
    return end(self, record, writer=writer)


def deletes_staged_before_the_record(self: Ledger, record: Any, *, writer: str) -> Any:
    if isinstance(record, Succeeded):
        Staged(self).delete(Staged(self).shards())
    return end(self, record, writer=writer)


def overwrites_the_plan(self: Ledger, plan: Plan, *, writer: str) -> Plan:
    self.store.put(self.key(keys.PLAN), plan.to_json())
    return plan


def commits_under_no_name(self: Ledger, shard: int, data: bytes, stats: ShardStats, *, attempt_id: str) -> Commit:
    return commit(self, shard, data, stats, attempt_id=f"shard-{shard}")


def runs_ended_jobs_again(ledger: Ledger, driver_id: str, connect: Any, run: Any) -> Any:
    return run(Driver(ledger, driver_id, connect()).run())


def convicts_in_company(self: Search, places: tuple[int, ...] | None, code: Any) -> int | None:
    if places is None or len(places) == 1:
        return died(self, places, code)
    for place in places:
        died(self, (place,), code)
    return places[0]


def runs_killers_again(self: Dispatcher, number: int, *, alone: bool) -> Any:
    return replace(next_work(self, number, alone=alone), excluded={})


def shares_the_engine_with_suspects(self: Dispatcher, number: int, *, alone: bool) -> Any:
    return replace(next_work(self, number, alone=alone), alone=False)


def finds_no_salvage(self: Salvage, shard: int | None = None, **_: Any) -> list[Any]:
    return []


def mixes_salvaged_rows_up(staged: Any, salvage: Any) -> Any:
    rows = salvaged_rows(staged, salvage)
    return dict(zip(rows, reversed(rows.values()), strict=True))


def starts_replicas_at_once(_: Driver) -> bool:
    return True


MUTANTS = (
    Mutant(
        rule="a commit is created, never put",
        where=Bucket,
        name="put_object",
        bug=commits_without_condition,
        noticed_as="I4: results.* is overwritten",
    ),
    Mutant(
        rule="a taken key is ours only if we wrote it",
        where=S3Store,
        name="put_new",
        bug=takes_every_refusal_for_success,
        noticed_as="I1: shard .* is taken for ours=True|I3: somebody came back",
    ),
    Mutant(
        rule="another's commit is success, not a fault",
        where=S3Store,
        name="put_new",
        bug=takes_another_winner_for_a_fault,
        noticed_as="fails although the store never failed|is interrupted although the store never failed",
    ),
    Mutant(
        rule="a write keeps its writer's name over all its tries",
        where=S3Store,
        name="put_new",
        bug=retries_as_another_writer,
        noticed_as="I1: shard .* is taken for ours=False|came back",
    ),
    Mutant(
        rule="an attempt commits under its own name",
        where=Ledger,
        name="commit",
        bug=commits_under_no_name,
        noticed_as="I1: shard .* is taken for ours",
    ),
    Mutant(
        rule="a job is finished when every shard is committed",
        where=Dispatcher,
        name="done",
        bug=property(is_done_one_shard_early),
        noticed_as="a driver fails: RuntimeError",
    ),
    Mutant(
        rule="the rows are counted before the job succeeds",
        where=Driver,
        name="_finish",
        bug=finishes_without_counting,
        further=((Dispatcher, "done", property(is_done_one_shard_early)),),
        noticed_as="I1: the job has succeeded and rows are missing",
    ),
    Mutant(
        rule="cancel and finish have one winner",
        where=Ledger,
        name="end",
        bug=cancel_overwrites,
        noticed_as="I3: _job/terminal.json is overwritten",
    ),
    Mutant(
        rule="the record that stands is believed, not one's own",
        where=Ledger,
        name="end",
        bug=believes_its_own_record,
        noticed_as="I3: somebody came back",
    ),
    Mutant(
        rule="_SUCCESS follows the terminal record",
        where=Ledger,
        name="end",
        bug=publishes_before_the_record,
        noticed_as="order: _SUCCESS is written",
    ),
    Mutant(
        rule="staged rows go after the terminal record",
        where=Ledger,
        name="end",
        bug=deletes_staged_before_the_record,
        noticed_as="order: _job/staged.* is deleted",
    ),
    Mutant(
        rule="the first plan stands",
        where=Ledger,
        name="create_plan",
        bug=overwrites_the_plan,
        noticed_as="I4: _job/plan.json is overwritten",
    ),
    Mutant(
        rule="replicas start for runnable rows only",
        where=Driver,
        name="_has_runnable_rows",
        bug=starts_replicas_at_once,
        noticed_as="engines: a replica is started",
    ),
    Mutant(
        rule="an ended job is not run again",
        where=entry,
        name="run_job",
        bug=runs_ended_jobs_again,
        noticed_as="I6: a rerun",
    ),
    Mutant(
        rule="only a row that dies alone is a killer",
        where=Search,
        name="died",
        bug=convicts_in_company,
        noticed_as="killers: rows .* are taken for what they are not",
    ),
    Mutant(
        rule="a killer is not run again",
        where=Dispatcher,
        name="_next",
        bug=runs_killers_again,
        noticed_as="killers: .* engines died over shard",
    ),
    Mutant(
        rule="a suspect has the engine to itself",
        where=Dispatcher,
        name="_next",
        bug=shares_the_engine_with_suspects,
        noticed_as="killers: .* engines died over shard|liveness",
    ),
    Mutant(
        rule="what is salvaged of a cancelled job is among its results",
        where=Salvage,
        name="find",
        bug=finds_no_salvage,
        noticed_as="I1: the results have the rows",
    ),
    Mutant(
        rule="a salvaged row is taken over as its own",
        where=salvaged,
        name="salvaged_rows",
        bug=mixes_salvaged_rows_up,
        noticed_as="I7: results.* is not what an undisturbed run gives",
    ),
)


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a mutant's bug in the program until the end of the block."""
    patches = [patch.object(*each) for each in ((mutant.where, mutant.name, mutant.bug), *mutant.further)]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule.replace(" ", "-"))
def test_a_broken_rule_is_noticed(simulation: Simulator, mutant: Mutant) -> None:
    with planted(mutant):
        for seed in range(TRIES):
            try:
                simulation.run(draw(seed, len(simulation.cases)))
            except Broken as broken:
                if any(re.search(mutant.noticed_as, violation) for violation in broken.violations):
                    return
    pytest.fail(f"{TRIES} histories hold although the rule is broken: {mutant.rule}")
