"""Invariants of a job that has ended, whatever happened on the way: I1 to I8 of tests/README.md.

The one checker of simulation, chaos and integration tests. It reads the job directory itself, past every proxy and
every command, and reports rather than asserts, so that a chaos run can count. What only one of its users can know,
such as every change that a simulated bucket has ever seen, that user checks in addition.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from jobs.ledger import Ledger
from jobs.planning.shards import row_ids_digest
from schemas import keys
from schemas.commits import commit_of
from schemas.exports import ExportFailure, ExportOutcome
from schemas.history import History
from schemas.limits import LimitNotice, Pause, RaisedLimits
from schemas.logs import LogLine
from schemas.pools import Placement
from schemas.records import Attempt, Failed, Interruption, Manifest, Plan, Progress, Quarantine, Succeeded
from schemas.spec import JobSpec
from schemas.starts import Start
from tests.chaos.s3_proxy import Proxy
from tests.support.stored import TERMINAL, Stored, read_rows

_REPLACED = (keys.PLACEMENT, keys.PROGRESS, keys.HISTORY, keys.LOGS)
"""Overwritten: none of them decides a result; every other object is written once."""

_ROWS = (keys.STAGED, keys.RESULTS, keys.SALVAGE, keys.FINGERPRINTS)
"""Objects that are Parquet files; the others are documents."""

_PARSERS: Mapping[str, Callable[[bytes], object]] = {
    keys.SPEC: JobSpec.from_json,
    keys.PLAN: Plan.from_json,
    keys.TERMINAL: TERMINAL.validate_json,
    keys.SUCCESS: Manifest.from_json,
    keys.PLACEMENT: Placement.from_json,
    keys.PROGRESS: Progress.from_json,
    keys.HISTORY: History.from_json,
    keys.STARTS: Start.from_json,
    keys.ATTEMPTS: Attempt.from_json,
    keys.QUARANTINE: Quarantine.from_json,
    keys.INTERRUPTIONS: Interruption.from_json,
    keys.LIMITS: TypeAdapter[RaisedLimits | LimitNotice](RaisedLimits | LimitNotice).validate_json,
    keys.PAUSES: Pause.from_json,
    keys.EXPORTS: TypeAdapter[ExportOutcome | ExportFailure](ExportOutcome | ExportFailure).validate_json,
    keys.LOGS: lambda data: [LogLine.model_validate_json(line) for line in data.splitlines()],
    **dict.fromkeys(_ROWS, read_rows),
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Faults found in one job. `violations` are sentences that start with the invariant's name."""

    rows_lost: int = 0
    rows_doubled: int = 0
    violations: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Return whether nothing is wrong."""
        return not (self.rows_lost or self.rows_doubled or self.violations)

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            rows_lost=self.rows_lost + other.rows_lost,
            rows_doubled=self.rows_doubled + other.rows_doubled,
            violations=self.violations + other.violations,
        )


def examine(
    stored: Stored,
    *,
    num_rows: int | Sequence[int],
    as_undisturbed: Callable[[str, bytes], bool] = lambda _key, _data: True,
    damaged: Collection[str] = (),
    may_fail: bool = False,
    at_rest: bool = True,
) -> Findings:
    """Check I1 (rows once), I2 (objects parse and match hash and plan), I3 (one end), I7 (the bytes of a run without
    faults), and the part of I5 that no rows are left behind.

    Args:
        num_rows: number of rows of the dataset, or the ids of those that the job runs.
        as_undisturbed: whether a result, by key and bytes, is what a run without faults gives.
        damaged: keys of objects that were damaged from outside, which nobody has to notice.
        may_fail: the job may have ended as FAILED.
        at_rest: no process of the job is left, so that what follows the terminal record has been done, too.
    """
    row_ids = set(range(num_rows) if isinstance(num_rows, int) else num_rows)
    wrong = [fault for key in sorted(stored.objects.keys() - set(damaged)) for fault in _bad_object(stored, key)]
    if keys.TERMINAL not in stored.objects or keys.SPEC not in stored.objects:
        return Findings(violations=(*wrong, "I3: the job has no terminal record"))
    if any(key in stored.objects and [*_bad_object(stored, key)] for key in (keys.SPEC, keys.PLAN, keys.TERMINAL)):
        return Findings(violations=tuple(wrong))  # Nothing else can be judged without them.
    terminal = TERMINAL.validate_json(stored.objects[keys.TERMINAL])
    if isinstance(terminal, Failed) and not may_fail:
        wrong.append(f"I3: the job has failed: {terminal.code} {terminal.reason}")
    plan = Plan.from_json(stored.objects[keys.PLAN]) if keys.PLAN in stored.objects else None
    rows: Counter[int] = Counter()
    for key in stored.below(keys.RESULTS):
        wrong += [f"I2: {key}: {fault}" for fault in _bad_result(stored, plan, key, rows)]
        if not as_undisturbed(key, stored.objects[key]):
            wrong.append(f"I7: {key} is not what an undisturbed run gives")
    if strangers := rows.keys() - row_ids:
        wrong.append(f"I1: rows that the dataset does not have: {sorted(strangers)[:5]}")
    lost = 0
    if isinstance(terminal, Succeeded):
        lost = len(row_ids - rows.keys())
        wrong += _bad_manifest(stored, terminal.manifest, plan, len(row_ids))
    wrong += _bad_success(stored, terminal.manifest if isinstance(terminal, Succeeded) else None, at_rest=at_rest)
    if isinstance(terminal, Succeeded) and at_rest:
        kept = (keys.STAGED,) if JobSpec.from_json(stored.objects[keys.SPEC]).keep_staged else ()
        if left := [key for key in stored.below(keys.STAGED, keys.SALVAGE) if not key.startswith(kept)]:
            wrong.append(f"I5: staged or salvaged rows are left behind: {left}")
    doubled = sum(count - 1 for count in rows.values())
    return Findings(rows_lost=lost, rows_doubled=doubled, violations=tuple(wrong))


def is_written_once(key: str) -> bool:
    """Return whether an object, by its key below the job directory, must never be overwritten (I4)."""
    return not key.startswith(_REPLACED) and not (key.startswith(keys.EXPORTS) and key.endswith("/failure.json"))


def examine_traffic(proxy: Proxy, job_id: str) -> Findings:
    """Check what a proxy saw of one job: I3 and I4 over the job's whole life, not only at its end; I5 for uploads.

    Every write-once object was stored at most once and results were never deleted; every PUT carried
    a checksum, and none was part of a multipart upload.
    """
    wrong = []
    ours = f"/{job_id}/"
    for path, count in proxy.stored.items():
        # Staged rows may be deleted after success, and written again by a driver that has not heard of it yet.
        if ours in path and count > 1 + proxy.deleted[path] and is_written_once(path.partition(ours)[2]):
            wrong.append(f"I4: {path} was written {count} times")
    may_go = (keys.STAGED, keys.SALVAGE, keys.PLACEMENT)
    wrong += [
        f"I4: {path} was deleted"
        for path in proxy.deleted
        if ours in path and not path.partition(ours)[2].startswith(may_go)
    ]
    for request in list(proxy.requests):
        if ours not in request.path:
            continue
        if request.multipart:
            wrong.append(f"I5: multipart upload: {request.path}")
        if request.method == "PUT" and not request.checksum:
            wrong.append(f"I2: a PUT without a checksum: {request.path}")
        if request.method == "PUT" and f"/{keys.RESULTS}" in request.path and not request.conditional:
            wrong.append(f"I4: an unconditional PUT of results: {request.path}")
    return Findings(violations=tuple(dict.fromkeys(wrong)))


def examine_words(
    stored: Stored,
    canaries: Mapping[str, str],
    said: Iterable[str] = (),
    logs: Path | None = None,
    *,
    secrets: Collection[str] = (),
) -> Findings:
    """Check I8: no canary in the output of commands, in any log, or in the job directory outside staged rows.

    Args:
        canaries: texts that must not be seen, by their names in violations.
        logs: folder of the cluster's logs.
        secrets: names of canaries that staged rows must not have either.
    """
    wrong = []
    files = [path for path in logs.rglob("*") if path.is_file() and not path.is_symlink()] if logs else []
    for name, canary in canaries.items():
        wanted = canary.encode()
        if any(canary in text for text in said):
            wrong.append(f"I8: {name} was printed by a command")
        wrong += [f"I8: {name} is in {path.name}" for path in files if wanted in path.read_bytes()]
        for key, data in stored.objects.items():
            seen = b"" if key.startswith(keys.STAGED) and name not in secrets else data  # They are the rows themselves.
            if key.startswith((keys.RESULTS, keys.SALVAGE)):
                seen += repr(read_rows(data).to_pylist()).encode()
            if wanted in seen + repr(stored.metadata[key]).encode():
                wrong.append(f"I8: {name} is in {key}")
    return Findings(violations=tuple(wrong))


def snapshot(ledger: Ledger) -> dict[str, tuple[object, str]]:
    """Return every object of the job with its modification time and hash, to see that nothing changes."""
    return {
        info.key: (info.modified_at, hashlib.sha256(ledger.store.get(info.key) or b"").hexdigest())
        for info in ledger.objects()
    }


def _bad_object(stored: Stored, key: str) -> Iterator[str]:
    """Check that an object parses and has the bytes that its writer hashed."""
    data, promised = stored.objects[key], stored.metadata[key].get("sha256")
    if promised is not None and hashlib.sha256(data).hexdigest() != promised:
        yield f"I2: {key} does not match its hash"
    parse = next((parse for prefix, parse in _PARSERS.items() if key.startswith(prefix)), None)
    try:
        if parse is None:
            yield f"I2: nobody knows what {key} is"
        else:
            parse(data)
    except (ValidationError, ValueError, OSError, pa.ArrowException) as error:
        yield f"I2: {key} does not parse: {type(error).__name__}"


def _bad_result(stored: Stored, plan: Plan | None, key: str, rows: Counter[int]) -> Iterator[str]:
    """Check one result object against its commit record and the plan, and count its rows in `rows`."""
    try:
        row_ids = read_rows(stored.objects[key])["row_id"].to_numpy()
    except (KeyError, OSError, pa.ArrowException) as error:
        yield f"its rows cannot be read: {type(error).__name__}"
        return
    rows.update(map(int, row_ids))
    if list(row_ids) != sorted(row_ids):
        yield "rows are out of order"
    shard = keys.shard_of(key)
    if plan is None or shard is None or shard >= len(plan.shards):
        yield "it is no shard of a plan"
    elif row_ids_digest(row_ids) != plan.shards[shard].row_ids_sha256 or len(row_ids) != plan.shards[shard].num_rows:
        yield "rows are not those of the plan"
    try:
        commit = commit_of(shard or 0, stored.metadata[key], len(stored.objects[key]))
    except (KeyError, ValueError):
        yield "it has no commit record"
    else:
        if len(row_ids) != commit.num_rows:
            yield "the commit record counts other rows"


def _bad_manifest(stored: Stored, manifest: Manifest, plan: Plan | None, num_rows: int) -> Iterator[str]:
    """Check that the manifest is of this plan and lists the objects that exist."""
    if plan is None or manifest.plan_sha256 != plan.digest() or manifest.num_rows != plan.num_rows:
        yield "I2: the manifest is not of this plan"
    if plan is not None and [commit.index for commit in manifest.shards] != list(range(len(plan.shards))):
        yield "I1: the manifest lacks shards"
    if manifest.num_rows != num_rows:
        yield f"I1: the manifest counts {manifest.num_rows} of {num_rows} rows"
    for commit in manifest.shards:
        data = stored.objects.get(commit.key)
        if data is None or commit_of(commit.index, stored.metadata[commit.key], len(data)) != commit:
            yield f"I2: the manifest's {commit.key} is not the object that is there"


def _bad_success(stored: Stored, manifest: Manifest | None, *, at_rest: bool) -> Iterator[str]:
    """Check that `_SUCCESS` is the manifest of a job that has succeeded and crosses no gate; no other job has one."""
    published = stored.objects.get(keys.SUCCESS)
    if manifest is None or manifest.crossed_gates:
        if published is not None:
            yield "order: _SUCCESS although the job has not succeeded, or crosses a gate"
    elif published != manifest.to_json() and (published is not None or at_rest):
        yield "order: _SUCCESS is not the manifest of the terminal record"
