"""Some of a job's error rows: which, and why. What else a row holds is read only when a person asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import Damaged
from jobs.ledger import Ledger
from jobs.results.values import as_text, rows_of
from jobs.text import printable
from jobs.threads import in_threads
from schemas import columns, keys
from schemas.records import Cancelled, Failed, ShardCommit, Succeeded

MOST_ROWS = 20
MOST_SHARDS = 200
"""Shards of a job that has not succeeded whose commits are looked at; the manifest of one that has lists them all."""

MOST_CHARACTERS = 600
_REQUESTS_AT_ONCE = 16
_SHOWN = ("row_id", "custom_id", "error_code", "error_message", "attempts")


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRow:
    """One error row.

    Attributes:
        kept: its kept columns as text, if they were asked for.
    """

    row_id: int
    custom_id: str
    code: str
    message: str
    kept: tuple[tuple[str, str], ...]


def error_rows(
    ledger: Ledger, terminal: Succeeded | Failed | Cancelled | None, *, with_text: bool, code: str | None = None
) -> list[ErrorRow]:
    """Read the first error rows of a job, shard by shard.

    Args:
        with_text: include kept columns, which may hold prompts.
        code: only rows with this error code.

    Raises:
        Damaged, StoreError: results cannot be read.
    """
    found: list[ErrorRow] = []
    for shard in _shards(ledger, terminal):
        if shard.num_error_rows and (code is None or code in shard.error_codes):
            found += _of_shard(ledger, shard.index, with_text=with_text, code=code)
        if len(found) >= MOST_ROWS:
            break
    return found[:MOST_ROWS]


def error_codes(terminal: Succeeded | Failed | Cancelled | None) -> dict[str, int]:
    """Return the error rows of a job with a result for every row, by code."""
    if not isinstance(terminal, Succeeded):
        return {}
    return dict(sum((Counter(shard.error_codes) for shard in terminal.manifest.shards), Counter()))


def _shards(ledger: Ledger, terminal: Succeeded | Failed | Cancelled | None) -> Iterator[ShardCommit]:
    if isinstance(terminal, Succeeded):
        yield from terminal.manifest.shards
        return
    shards = sorted(ledger.committed())[:MOST_SHARDS]
    yield from (commit for commit in in_threads(_REQUESTS_AT_ONCE, ledger.find_commit, shards) if commit is not None)


def _of_shard(ledger: Ledger, shard: int, *, with_text: bool, code: str | None) -> list[ErrorRow]:
    if (data := ledger.read_result(shard)) is None:
        return []
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False) as file:
            names = file.schema_arrow.names
            kept = [name for name in names if name not in columns.RESERVED_COLUMNS] if with_text else []
            table = file.read(columns=[*(name for name in _SHOWN if name in names), "status", *kept])
    except (OSError, pa.ArrowException) as error:
        raise Damaged(f"{ledger.uri}/{keys.result(shard)} cannot be read.", "Restore it from a backup.") from error
    wanted = pc.equal(table["status"], "error")
    if code is not None:
        wanted = pc.and_(wanted, pc.equal(table["error_code"], code))
    return [
        ErrorRow(
            row_id=row["row_id"],
            custom_id=printable(row.get("custom_id") or ""),
            code=row["error_code"] or "",
            message=printable(row["error_message"] or ""),
            kept=tuple((printable(name), _cut(as_text(row[name]))) for name in kept),
        )
        for row in rows_of(table.filter(wanted).slice(0, MOST_ROWS))
    ]


def _cut(text: str | None) -> str:
    text = printable(text or "")
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
