"""Pools as people and programs handle them: start, look at, use and end."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from jobs import __version__
from jobs.errors import Conflict, UsageError
from jobs.looks import Looks
from jobs.models.compiled import manifest_digest
from jobs.models.encoding import BYTES_MODEL
from jobs.models.snapshot import fingerprint
from jobs.pools.book import PoolBook, check_name
from jobs.pools.matching import mismatch
from jobs.pools.names import uri_of
from schemas.environment import SUBMISSION_ID
from schemas.pools import Placement, PoolDown, PoolRange, PoolSpec, PoolState
from schemas.spec import EngineSpec, JobSpec, ModelSpec

if TYPE_CHECKING:
    from jobs.client import BatchClient
    from jobs.cluster.submission import Submission

STATE_FRESH_S = 30.0
"""A pool's driver writes every two seconds: an older state is that of a driver that is gone, or on a loaded machine."""

DOWN_S, LOOK_S = 60.0, 0.3

PoolWord = Literal["STARTING", "UP", "DRAINING", "DOWN", "LOST", "FAILED"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStanding:
    """One pool as it stands now.

    Attributes:
        word: its state in one word. LOST: its driver is gone and nobody took it down. FAILED: it has ended by itself.
        state: what its driver has last said; None if it never did.
        reason: why it is not up, for people.
    """

    spec: PoolSpec
    word: PoolWord
    state: PoolState | None
    reason: str = ""


class Pools:
    """The pools under the root of a client. Methods raise `StoreError` and `ClusterError` where they use these."""

    def __init__(self, client: BatchClient) -> None:
        self._client = client
        self._book = PoolBook(client.store)

    def up(
        self,
        name: str,
        *,
        model: ModelSpec,
        engine: EngineSpec,
        replicas: PoolRange | None = None,
        idle_s: float = 900.0,
    ) -> tuple[PoolSpec, bool]:
        """Start a pool. The same again attaches to it; with other options it goes on in a new generation.

        Returns:
            The pool, and whether this call changed or started anything.

        Raises:
            UsageError: the name or the model cannot be used.
            Conflict: somebody else changed the pool at the same time.
        """
        check_name(name)
        newest = self._book.newest(name)
        wanted = PoolSpec(
            name=name,
            generation=newest.generation + 1 if newest else 1,
            model=self._pinned(model, engine),
            engine=engine,
            replicas=replicas or PoolRange(),
            idle_s=idle_s,
            version=__version__,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            created_by=getpass.getuser(),
        )
        self._client.submitter()
        stands = newest is not None and self._book.down(name, newest.generation) is None
        if newest is not None and stands and newest.asks_same(wanted):
            return newest, self._start(newest)
        if not self._book.create(wanted):
            raise Conflict(f"Pool {name} was changed by somebody else just now.", f"Look at it: jobs pool show {name}")
        self._start(wanted)
        return wanted, True

    def standings(self) -> Iterator[PoolStanding]:
        """Yield all pools, in name order."""
        for name in self._book.names():
            yield self.standing(name)

    def standing(self, name: str) -> PoolStanding:
        """Look at one pool.

        Raises:
            UsageError: there is none of this name.
        """
        spec = self._book.newest(name)
        if spec is None:
            self._book.standing(name)  # raises
            raise AssertionError(name)
        state = self._book.state(name)
        if (down := self._book.down(name, spec.generation)) is not None:
            ended = state is None or state.phase == "ended" or not self._is_alive(name)
            return PoolStanding(
                spec=spec,
                word="DOWN" if ended else "DRAINING",
                state=state,
                reason=f"Taken down by {down.by}.",
            )
        if state is not None and state.phase == "ended" and not self._is_alive(name):
            return PoolStanding(spec=spec, word="FAILED", state=state, reason=state.reason)
        if not self._is_alive(name):
            return PoolStanding(spec=spec, word="LOST", state=state, reason="Its driver is gone.")
        if state is None or state.phase in ("starting", "ended"):
            return PoolStanding(spec=spec, word="STARTING", state=state, reason=state.reason if state else "")
        return PoolStanding(spec=spec, word="UP", state=state, reason=state.reason)

    def down(self, name: str, *, drain: bool = False, by: str | None = None) -> PoolSpec:
        """Take a pool down. Its jobs are interrupted, or with `drain` end first; what they have committed stays.

        Raises:
            UsageError: there is none of this name.
            ClusterError: it has not ended within a minute (without `drain`).
        """
        spec = self._book.newest(name)
        if spec is None:
            self._book.standing(name)  # raises
            raise AssertionError(name)
        record = PoolDown(by=by or getpass.getuser(), at=datetime.now(UTC).isoformat(timespec="seconds"), drain=drain)
        first = self._book.take_down(name, spec.generation, record)
        if drain:
            return spec
        submitter = self._client.reachable_submitter()
        deadline, looks = time.monotonic() + (DOWN_S if first else 0.0), Looks(LOOK_S)
        while submitter is not None and (alive := [each for each in self._submissions(name) if each.active]):
            if time.monotonic() >= deadline:
                for each in alive:  # it drains, or does not see the record
                    submitter.stop(each.submission_id)
            looks.pause()
        return spec

    def check(self, placement: Placement, spec: JobSpec) -> None:
        """Check that a job can compute in a pool.

        Raises:
            UsageError: the pool is not up, or the job does not fit it; the error names the difference.
        """
        pool = self._book.standing(placement.pool)
        if (why := mismatch(spec, pool, version=__version__)) is not None:
            raise UsageError(why, "Give the job what the pool has, or engines of its own: --no-pool")
        standing = self.standing(placement.pool)
        if standing.word in ("LOST", "FAILED", "DRAINING"):
            how = {"LOST": "is gone", "FAILED": "could not go on", "DRAINING": "is going down"}[standing.word]
            raise UsageError(
                f"Pool {pool.name} {how}. {standing.reason}".rstrip(),
                f"Start it again: jobs pool up {pool.name} --model {pool.model.path}; or submit with --no-pool.",
            )

    def _pinned(self, model: ModelSpec, engine: EngineSpec) -> ModelSpec:
        """Return the model with its fingerprint, as jobs have it."""
        if model.path == BYTES_MODEL:
            return model
        weights = engine.name == "vllm" and engine.load_format != "dummy"
        compiled = manifest_digest(model.path) if engine.name == "vllm" else None
        return model.evolve(fingerprint=fingerprint(model.path, weights=weights), compiled=compiled)

    def _start(self, spec: PoolSpec) -> bool:
        """Start the pool's driver if none is at work; return whether one was started."""
        submitter = self._client.submitter()
        known = self._submissions(spec.name)
        if any(each.active for each in known):
            return False
        from jobs.cluster.submission import describe, driver_environment

        uri = uri_of(self._client.store.uri, spec.name)
        self._client.check_packages(spec.engine.name)
        # Two that start it at once name the same submission, which Ray takes once.
        root = sha256(self._client.store.uri.encode()).hexdigest()[:6]
        submission_id = f"pool-{spec.name}-{spec.generation}-{root}{len(known)}"
        env = driver_environment(self._client.settings.allowed_buckets) | {SUBMISSION_ID: submission_id}
        metadata = describe(name=f"pool {spec.name}", job_id="", job_uri=uri, dataset="", model=spec.model.path)
        return submitter.start_pool(uri, submission_id, metadata, env)

    def _submissions(self, name: str) -> list[Submission]:
        submitter = self._client.reachable_submitter()
        return submitter.find(uri_of(self._client.store.uri, name)) if submitter else []

    def _is_alive(self, name: str) -> bool:
        """Return whether the pool's driver is at work, as the cluster says or, where it cannot be asked, the store."""
        if self._client.reachable_submitter() is not None and (known := self._submissions(name)):
            return any(each.active for each in known)
        age_s, state = self._book.state_age_s(name), self._book.state(name)
        return age_s is not None and age_s < STATE_FRESH_S and state is not None and state.phase != "ended"
