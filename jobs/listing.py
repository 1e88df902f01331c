"""The jobs under a root at a glance: a few small requests per job, many jobs at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from jobs.client import is_alive
from jobs.errors import ClusterError, UsageError
from jobs.ledger import Ledger, list_jobs
from jobs.states import derive_state
from jobs.threads import threads
from schemas import keys
from schemas.codes import State
from schemas.records import Cancelled, Failed, Progress, Succeeded
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.client import BatchClient
from jobs.submission import Submission, Submitter

REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One job in a list. Counts of a job that has not succeeded are its driver's last words."""

    job_id: str
    state: State
    rows_total: int | None
    rows_done: int
    rows_error: int
    created_at: str
    name: str
    dataset: str
    uri: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Keys are stable."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What was found.

    Attributes:
        more: whether there are further jobs beyond the limit.
        unreadable: jobs left out, with the reason: another version wrote them.
    """

    entries: tuple[Entry, ...]
    more: bool
    unreadable: tuple[tuple[str, str], ...]


def newest(client: BatchClient, *, states: Collection[State] = (), limit: int) -> Listing:
    """The newest `limit` jobs under the client's root, newest first.

    Args:
        states: only jobs in one of these; empty means all.

    Raises:
        StoreError: the store cannot be reached.
    """
    submitter = _submitter(client)
    unreadable: list[tuple[str, str]] = []

    def describe(dated: tuple[datetime, Ledger]) -> Entry | None:
        try:
            entry = _entry(dated[1], dated[0], submitter)
        except UsageError as error:
            unreadable.append((dated[1].job_id, str(error)))
            return None
        return entry if not states or entry.state in states else None

    with threads(REQUESTS_AT_ONCE) as pool:
        ledgers = list(list_jobs(client.store))
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
    """Entries in the given order; no job is asked for long before the reader wants it."""
    remaining = iter(dated)
    while batch := list(islice(remaining, REQUESTS_AT_ONCE)):
        yield from (entry for entry in pool.map(describe, batch) if entry is not None)


def _entry(ledger: Ledger, created_at: datetime, submitter: Submitter | None) -> Entry:
    spec, state, terminal, progress = _standing(ledger, submitter)
    total = progress.rows_total if progress else None
    done, errors = (progress.rows_ok + progress.rows_error, progress.rows_error) if progress else (0, 0)
    if isinstance(terminal, Succeeded):
        total = done = terminal.manifest.num_rows
        errors = terminal.manifest.num_error_rows
    return Entry(
        job_id=ledger.job_id,
        state=state,
        rows_total=total,
        rows_done=done,
        rows_error=errors,
        created_at=created_at.isoformat(timespec="seconds"),
        name=spec.name,
        dataset=spec.input.uri,
        uri=ledger.uri,
    )


def _standing(
    ledger: Ledger, submitter: Submitter | None
) -> tuple[JobSpec, State, Succeeded | Failed | Cancelled | None, Progress | None]:
    spec, terminal, progress = ledger.spec(), ledger.terminal(), ledger.progress()
    if terminal is not None:
        return spec, State(terminal.state), terminal, progress
    submissions = _submissions(submitter, ledger)
    alive = is_alive(submissions, progress)
    if not alive:
        # It may have ended between the two looks.
        terminal = ledger.terminal()
    state = derive_state(
        terminal,
        # Its existence will do: plans are large.
        planned=ledger.store.head(f"{ledger.job_id}/{keys.PLAN}") is not None,
        driver_seen=progress is not None or (bool(submissions) and not alive),
        driver_alive=alive,
    )
    return spec, state, terminal, progress


def _submitter(client: BatchClient) -> Submitter | None:
    """The cluster, asked once: an unreachable one must not be waited for by every job."""
    try:
        return client.running_submitter()
    except ClusterError:
        return None


def _submissions(submitter: Submitter | None, ledger: Ledger) -> list[Submission]:
    try:
        return submitter.find(ledger.uri) if submitter else []
    except ClusterError:
        return []
