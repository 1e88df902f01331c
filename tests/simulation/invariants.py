"""Invariants of every history: those of tests/README.md that `tests.support.invariants` checks on what is stored, and
what only the simulation can see: every change of the bucket, every process, every blow from outside.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import ceil, log2
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import keys
from schemas.records import Cancelled, Failed, Manifest, Succeeded
from schemas.spec import JobSpec
from tests.simulation.holds import check_holds
from tests.simulation.seams import CANARY
from tests.simulation.world import SECRET
from tests.support.invariants import examine, examine_words, is_written_once
from tests.support.stored import TERMINAL, Stored, is_as_undisturbed, read_rows
from workers.driver.dispatch import MAX_REPLICAS_PER_SHARD

if TYPE_CHECKING:
    from tests.simulation.histories import Run

_PREFIX = "root/job/"

KILLED = ("ENGINE_CRASH", "TIMEOUT")
"""Codes of rows that kill the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome of one history."""

    state: str
    steps: int
    drivers: int
    crashes: int


def check(run: Run) -> Outcome:
    """Check I1 to I5, I7, I8 and the promises about rows that kill, of a history whose job has ended."""
    world, case = run.world, run.case
    violation = world.violation
    stored = _stored(run)
    _check_changes(run)
    crashes = sum("is killed" in line for line in world.trace)
    if keys.TERMINAL not in stored.objects or keys.SPEC not in stored.objects:
        violation("liveness: no terminal record")
        return Outcome(state="NONE", steps=world.steps, drivers=len(run.drivers), crashes=0)
    terminal = TERMINAL.validate_json(stored.objects[keys.TERMINAL])
    if JobSpec.from_json(stored.objects[keys.SPEC]).input != case.spec.input:
        violation("I2: the spec is not the one that was submitted")

    # I1, I2, I3, I5, I7, I8 on what is stored.
    found = examine(
        stored,
        num_rows=case.rows,
        as_undisturbed=lambda key, data: not case.results or _is_as_undisturbed(run, key, data),
        damaged={key.removeprefix(_PREFIX) for key in world.bucket.damaged},
        may_fail=True,
    )
    if found.rows_lost:
        violation("I1: the job has succeeded and rows are missing")
    if found.rows_doubled:
        violation("I1: a row is there twice")
    quoted = examine_words(stored, {"a prompt": CANARY, "a secret": SECRET}, secrets={"a secret"})
    for each in (*found.violations, *quoted.violations):
        violation(each)
    if not case.needs_engine and any("/replica-" in process.name for process in world.processes):
        violation("engines: a replica is started although no row needs one")

    if case.shards:
        _check_killers(run, stored)
    _check_salvage(run, stored)
    check_holds(run, stored)
    if isinstance(terminal, Cancelled) and not run.cancelled:
        violation("the job is cancelled and nobody did it")
    if isinstance(terminal, Failed):
        deaths = sum("/replica-" in process.name for process in world.processes)
        if (
            terminal.code not in ("ENGINE_START_FAILED", "ENGINE_DIED")
            or deaths < 3
            or (case.killers and not world.blows)
        ):
            violation(f"the job has failed for no fault of its own: {terminal.code} {terminal.reason}")

    # I3: everybody who returned a record returned the one in the store.
    for record in [*run.records, *(driver.record for driver in run.drivers if driver.record)]:
        if record != terminal:
            violation(f"I3: somebody came back with {record.state}, the record says {terminal.state}")
    # I5
    if world.alive:
        violation(f"I5: {world.alive} still run")
    return Outcome(state=terminal.state, steps=world.steps, drivers=len(run.drivers), crashes=crashes)


def _stored(run: Run) -> Stored:
    """Return the job directory as it is in the bucket now."""
    bucket = run.world.bucket
    ours = {key: data for key, data in bucket.objects().items() if key.startswith(_PREFIX)}
    return Stored(
        objects={key.removeprefix(_PREFIX): data for key, data in ours.items()},
        metadata={key.removeprefix(_PREFIX): bucket.metadata(key) for key in ours},
    )


def _check_salvage(run: Run, stored: Stored) -> None:
    """Check that everything ever salvaged is whole and has the rows of an undisturbed run.

    The results of a job that did not succeed must be its committed and its salvaged rows.
    """
    violation, changes, objects = run.world.violation, run.world.bucket.changes, stored.objects
    kept: dict[int, set[int]] = {}
    for change in changes:
        key = change.key.removeprefix(_PREFIX)
        named = keys.salvage_of(key)
        if change.kind != "created" or not change.key.startswith(_PREFIX) or named is None:
            continue
        if hashlib.sha256(change.data).hexdigest() != change.metadata["sha256"]:
            violation(f"I2: {key} does not match its hash")
        table = read_rows(change.data)
        expected = run.case.results.get(keys.result(named[0]))
        if expected is not None:
            whole = pq.read_table(pa.BufferReader(expected))
            wanted = whole.filter(pc.is_in(whole["row_id"], value_set=table["row_id"].combine_chunks()))
            # Verdicts on rows that kill are never salvaged, so blows from outside excuse no difference here.
            if not table.equals(wanted):
                violation(f"salvage: {key} has rows that an undisturbed run has not")
        if key in objects:
            kept.setdefault(named[0], set()).update(table["row_id"].to_pylist())
    if not isinstance(TERMINAL.validate_json(objects[keys.TERMINAL]), Succeeded):
        committed = set(stored.below(keys.RESULTS))
        done = [row for key in committed for row in rows_of(objects[key])]
        done += [row for shard, rows in kept.items() if keys.result(shard) not in committed for row in rows]
        found = run.results()
        if found != sorted(done):
            violation(f"I1: the results have the rows {found}, committed or salvaged are {sorted(done)}")


def rows_of(data: bytes) -> dict[int, str | None]:
    """Return the error code of each row of a result."""
    table = pq.read_table(pa.BufferReader(data), columns=["row_id", "error_code"])
    return dict(zip(table["row_id"].to_pylist(), table["error_code"].to_pylist(), strict=True))


def _is_as_undisturbed(run: Run, key: str, data: bytes) -> bool:
    """Return whether a result has the bytes of an undisturbed run; after mistakes, all rows except accused ones."""
    expected = run.case.results.get(key)
    if run.case.spec.limits.at_limit == "finish":
        return expected is None or is_as_undisturbed(data, expected)
    if data == expected or expected is None or not _mistakes(run):
        return data == expected
    accused = pa.array([row for row, code in rows_of(data).items() if code in KILLED], pa.int64())
    got, wanted = (
        table.filter(pc.invert(pc.is_in(table["row_id"], accused)))
        for table in (pq.read_table(pa.BufferReader(each)) for each in (data, expected))
    )
    return got.equals(wanted)


def _mistakes(run: Run) -> int:
    """Return the most rows that blows from outside can make look guilty.

    Whoever kills or freezes a replica while it runs one row alone makes it look as if that row did it. Where other
    rows of the shard do kill, a single blow suffices. Where none does, it takes two to make the shard a suspect whose
    rows are searched (`max_strikes`) and a third over a row alone; each further row takes two: one over the whole
    shard, one over the row.
    """
    return run.world.blows if run.case.killers else max(0, run.world.blows - 1) // 2


def _check_killers(run: Run, stored: Stored) -> None:
    """Check that rows that kill are quarantined and, except for mistakes, no others, within the promised deaths."""
    case, blows, violation = run.case, run.world.blows, run.world.violation
    mistakes = _mistakes(run)
    found = {
        row: code
        for key in stored.below(keys.RESULTS)
        for row, code in rows_of(stored.objects[key]).items()
        if code in KILLED or row in case.killers
    }
    wrong = {row: code for row, code in found.items() if code != case.killers.get(row)}
    if len(wrong) > mistakes or not all(code in KILLED for code in wrong.values()):
        violation(f"killers: rows {wrong} are taken for what they are not, after {blows} blows")
    noted = {key: stored.objects[key] for key in stored.below(keys.QUARANTINE)}
    if len(noted.items() - case.results.items()) > mistakes:
        violation(f"killers: {sorted(noted)} are quarantined, after {blows} blows")
    for dispatcher in run.world.dispatchers:
        for shard, deaths in dispatcher.deaths.items():
            num_killers, num_rows = case.shards[shard]
            guilty = num_killers + blows
            copies = MAX_REPLICAS_PER_SHARD - 1  # before the first death idle replicas may work on it, too
            most = guilty + 1 + copies + guilty * max(1, ceil(log2(max(1, num_rows))))
            if deaths > most:
                violation(f"killers: {deaths} engines died over shard {shard}, more than {most}, after {blows} blows")


def _check_changes(run: Run) -> None:
    """Check I3, I4 and the order of writes, over everything that was ever written."""
    violation = run.world.violation
    standing: set[str] = set()
    succeeded: Manifest | None = None
    for change in run.world.bucket.changes:
        if not change.key.startswith(_PREFIX):
            continue
        key = change.key.removeprefix(_PREFIX)
        if change.kind == "deleted":
            if not key.startswith((keys.STAGED, keys.SALVAGE)):
                violation(f"I4: {key} is deleted by {change.by}")
            elif succeeded is None and change.key not in run.world.bucket.damaged:
                violation(f"order: {key} is deleted by {change.by} before the job has succeeded")
            standing.discard(key)
            continue
        if change.kind == "replaced" and is_written_once(key):
            violation(f"{'I3' if key == keys.TERMINAL else 'I4'}: {key} is overwritten by {change.by}")
        if key.startswith((keys.STAGED, keys.RESULTS, keys.ATTEMPTS, keys.SALVAGE)) and keys.PLAN not in standing:
            violation(f"order: {key} is written before the plan stands")
        if key.startswith(keys.RESULTS) and succeeded is not None:
            violation(f"I4: {key} is committed after the job has succeeded")
        if key == keys.SUCCESS and succeeded is None:
            violation(f"order: _SUCCESS is written by {change.by} before the job has succeeded")
        if key == keys.TERMINAL:
            record = TERMINAL.validate_json(change.data)
            if isinstance(record, Succeeded):
                succeeded = record.manifest
                missing = [commit.key for commit in record.manifest.shards if commit.key not in standing]
                if missing:
                    violation(f"I1: the job succeeds without {missing}")
        standing.add(key)


def check_rerun(run: Run, before: int) -> None:
    """Check I6: running an ended job again writes nothing."""
    for change in run.world.bucket.changes[before:]:
        run.world.violation(f"I6: a rerun has {change.kind} {change.key}")
