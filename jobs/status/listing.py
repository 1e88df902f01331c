"""The jobs under a root at a glance: a few small requests per job, many jobs at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from jobs.errors import ClusterError, Damaged, UsageError
from jobs.ledger import Ledger, list_jobs
from jobs.status.liveness import Pulse
from jobs.status.standing import look
from jobs.status.summary import summarise
from jobs.threads import threads
from schemas.codes import State
from schemas.records import CrossedGate

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission, Submitter
    from jobs.store.base import ObjectStore

REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One job in a list, with the same numbers and words as its status."""

    job_id: str
    state: State
    rows_total: int | None
    rows_done: int
    rows_error: int
    created_at: str
    name: str
    dataset: str
    uri: str
    reason: str | None = None
    hint: str | None = None
    rows_computing: int = 0
    duration_s: float | None = None
    crossed_gates: tuple[CrossedGate, ...] = ()
    schedule: str | None = None
    retry_of: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form. Keys are stable."""
        return asdict(self) | {"crossed_gates": [gate.model_dump(mode="json") for gate in self.crossed_gates]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The jobs that were found.

    Attributes:
        more: whether there are more jobs beyond the limit.
        unreadable: jobs left out, with the reason and what to do: they are damaged, or a newer version wrote them.
    """

    entries: tuple[Entry, ...]
    more: bool
    unreadable: tuple[tuple[str, str], ...]


def newest(store: ObjectStore, submitter: Submitter | None, *, states: Collection[State] = (), limit: int) -> Listing:
    """List the newest `limit` jobs of a root, newest first.

    Args:
        submitter: the cluster that is asked about drivers; None if there is none.
        states: only jobs in one of these; empty means all.

    Raises:
        StoreError: the store cannot be reached.
    """
    unreadable: list[tuple[str, str]] = []

    def describe(dated: tuple[datetime, Ledger]) -> Entry | None:
        try:
            entry = _entry(dated[1], dated[0], submitter)
        except (UsageError, Damaged) as error:
            unreadable.append((dated[1].job_id, str(error)))
            return None
        return entry if not states or entry.state in states else None

    with threads(REQUESTS_AT_ONCE) as pool:
        ledgers = list(list_jobs(store))
        found = zip(pool.map(Ledger.created_at, ledgers), ledgers, strict=True)
        dated = [(created, ledger) for created, ledger in found if created is not None]
        dated.sort(key=lambda each: (each[0], each[1].job_id), reverse=True)
        entries = list(islice(_in_order(pool, describe, dated), limit + 1))
    return Listing(entries=tuple(entries[:limit]), more=len(entries) > limit, unreadable=tuple(unreadable))


def _in_order(
    pool: ThreadPoolExecutor,
    describe: Callable[[tuple[datetime, Ledger]], Entry | None],
    dated: Iterable[tuple[datetime, Ledger]],
) -> Iterator[Entry]:
    """Yield entries in the given order, in batches, so that no job is read long before its entry is needed."""
    remaining = iter(dated)
    while batch := list(islice(remaining, REQUESTS_AT_ONCE)):
        yield from (entry for entry in pool.map(describe, batch) if entry is not None)


def _entry(ledger: Ledger, created_at: datetime, submitter: Submitter | None) -> Entry:
    status = look(ledger, _submissions(submitter, ledger), Pulse(), light=True)
    # A driver at work reports its own numbers; otherwise only committed rows count, as in `jobs status`.
    committed = None if status.driver_alive or status.terminal_manifest else ledger.committed()
    summary = summarise(status, committed)
    return Entry(
        job_id=ledger.job_id,
        state=summary.state,
        rows_total=summary.rows_total,
        rows_done=summary.rows_done,
        rows_error=summary.rows_error,
        created_at=created_at.isoformat(timespec="seconds"),
        name=summary.name,
        dataset=summary.dataset,
        uri=ledger.uri,
        reason=summary.reason,
        hint=summary.hint,
        rows_computing=summary.rows_computing,
        duration_s=summary.duration_s,
        crossed_gates=summary.crossed_gates,
        schedule=summary.schedule,
        retry_of=summary.retry_of,
    )


def _submissions(submitter: Submitter | None, ledger: Ledger) -> list[Submission]:
    try:
        return submitter.find(ledger.uri) if submitter else []
    except ClusterError:
        return []
