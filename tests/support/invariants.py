"""Invariants of a job that has ended, whatever happened on the way: I1 to I8 of the design page.

`examine` reads the job directory itself, past every proxy and every command; it reports rather than asserts,
so that a chaos run can count.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ledger import Ledger
from jobs.planning.shards import row_ids_digest
from schemas import keys
from schemas.records import Failed, Manifest, Plan, Succeeded
from tests.chaos.s3_proxy import Proxy


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


def examine(ledger: Ledger, *, num_rows: int, reference: Mapping[int, bytes]) -> Findings:
    """Check I1 (rows once), I2 (objects parse and match their hashes), I3 (one end), I7 (bytes of a fault-free run).

    Args:
        reference: result objects of that run, by shard; empty if there is none to compare with.
    """
    plan, terminal = ledger.plan(), ledger.terminal()
    if terminal is None or isinstance(terminal, Failed):
        return Findings(violations=(f"I3: the job has not ended well: {terminal}",))
    wrong: list[str] = []
    rows: Counter[int] = Counter()
    for shard in sorted(ledger.committed()):
        data = ledger.read_result(shard)
        assert data is not None
        try:
            rows.update(_checked(ledger, plan, shard, data))
        except (ValueError, OSError, IndexError, pa.ArrowException) as error:
            wrong.append(f"I2: shard {shard}: {error}")
        if reference and data != reference.get(shard):
            wrong.append(f"I7: shard {shard} has other bytes than in a fault-free run")
    wrong += _bad_staged(ledger)
    published = ledger.store.get(f"{ledger.job_id}/{keys.SUCCESS}")
    lost = 0
    if isinstance(terminal, Succeeded):
        lost = len(set(range(num_rows)) - rows.keys())
        if published is None or Manifest.from_json(published) != terminal.manifest:
            wrong.append("I3: _SUCCESS is not the manifest of the terminal record")
        if [commit.sha256 for commit in terminal.manifest.shards] != [
            ledger.shard_commit(commit.index).sha256 for commit in terminal.manifest.shards
        ]:
            wrong.append("I2: the manifest names other objects than those that are there")
        if terminal.manifest.num_rows != num_rows:
            wrong.append(f"I1: the manifest counts {terminal.manifest.num_rows} of {num_rows} rows")
    elif published is not None:
        wrong.append("I3: a cancelled job has a _SUCCESS")
    doubled = sum(count - 1 for count in rows.values())
    if strangers := rows.keys() - set(range(num_rows)):
        wrong.append(f"I1: rows that the dataset does not have: {sorted(strangers)[:5]}")
    return Findings(rows_lost=lost, rows_doubled=doubled, violations=tuple(wrong))


def examine_traffic(proxy: Proxy, job_id: str) -> Findings:
    """Check what a proxy saw of one job: I3 and I4 over the job's whole life, not only at its end; I5 for uploads.

    Every write-once object was stored at most once and results were never deleted; every PUT carried
    a checksum, and none was part of a multipart upload.
    """
    wrong = []
    ours = f"/{job_id}/"
    for path, count in proxy.stored.items():
        advisory = any(name in path for name in (keys.PROGRESS, keys.HISTORY))
        # Staged rows may be deleted after success, and written again by a driver that has not heard of it yet.
        if ours in path and count > 1 + proxy.deleted[path] and not advisory:
            wrong.append(f"I4: {path} was written {count} times")
    wrong += [f"I4: {path} was deleted" for path in proxy.deleted if ours in path and keys.STAGED not in path]
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


def examine_words(ledger: Ledger, canaries: Mapping[str, str], said: Iterable[str], logs: Path) -> Findings:
    """Check I8: no canary in the output of commands, in any log, or in the job directory outside staged rows.

    Args:
        canaries: texts that must not be seen, by their names in violations.
        logs: folder of the cluster's logs.
    """
    wrong = []
    for name, canary in canaries.items():
        wanted = canary.encode()
        if any(canary in text for text in said):
            wrong.append(f"I8: {name} was printed by a command")
        wrong += [f"I8: {name} is in {path.name}" for path in _files(logs) if wanted in path.read_bytes()]
        for info in ledger.objects():
            found, data = ledger.store.head(info.key), ledger.store.get(info.key) or b""
            if f"/{keys.STAGED}" in info.key:
                data = b""  # The rows themselves.
            elif f"/{keys.RESULTS}" in info.key:
                data = repr(pq.read_table(pa.BufferReader(data)).to_pylist()).encode()
            if wanted in data + repr(found.metadata if found else "").encode():
                wrong.append(f"I8: {name} is in {info.key}")
    return Findings(violations=tuple(wrong))


def snapshot(ledger: Ledger) -> dict[str, tuple[object, str]]:
    """Return every object of the job with its modification time and hash, to see that nothing changes."""
    return {
        info.key: (info.modified_at, hashlib.sha256(ledger.store.get(info.key) or b"").hexdigest())
        for info in ledger.objects()
    }


def _checked(ledger: Ledger, plan: Plan | None, shard: int, data: bytes) -> list[int]:
    """Check one result object and return its row ids.

    Raises:
        ValueError: the object does not match its commit record or the plan.
        pa.ArrowException, OSError: the object does not parse.
    """
    if plan is None:
        raise ValueError("committed without a plan")
    commit, planned = ledger.shard_commit(shard), plan.shards[shard]
    if hashlib.sha256(data).hexdigest() != commit.sha256:
        raise ValueError("the bytes do not match the hash of the commit")
    table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    row_ids = table["row_id"].to_numpy()
    if list(row_ids) != sorted(row_ids):
        raise ValueError("rows are out of order")
    if len(row_ids) != planned.num_rows or row_ids_digest(row_ids) != planned.row_ids_sha256:
        raise ValueError("rows are not those of the plan")
    if len(row_ids) != commit.num_rows:
        raise ValueError("the commit record counts other rows")
    return [int(row_id) for row_id in row_ids]


def _bad_staged(ledger: Ledger) -> list[str]:
    wrong = []
    for shard in sorted(ledger.staged_shards()):
        try:
            pq.read_table(pa.BufferReader(ledger.read_staged(shard)), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            wrong.append(f"I2: staged shard {shard}: {error}")
    return wrong


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
