"""Drives batches: from validation to a job, and from the job's end to the files of answers.

Every step starts from the state in the store and ends in a write-once object, so that any number of servers may
run the same steps, and another one goes on where a killed one stopped.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pydantic import ValidationError

from jobs.client import BatchClient
from jobs.errors import ClusterError, Conflict, JobsError, StoreError, UsageError
from jobs.ledger import Ledger
from jobs.pauses import Pauses
from jobs.retention.policies import expire
from jobs.serve.batches import Batches, Standing
from jobs.serve.errors import ApiError
from jobs.serve.files import Files
from jobs.serve.leftovers import KEPT_S, Leftovers
from jobs.serve.outputs import EXPIRED_BY, ended_as, write_outputs
from jobs.serve.requests import check_requests, job_spec
from jobs.settings import Settings
from jobs.validation import problem, sentence
from schemas.batches import Accepted, BatchError, BatchRequest, Outcome
from schemas.codes import JobError
from schemas.pools import Placement
from schemas.records import Cancelled, Failed, Succeeded
from schemas.spec import JobSpec

POLL_S = 1.0
"""Time between two checks of a batch that has not ended."""

RESUME_S, MAX_RESUME_S = 5.0, 300.0
"""First and longest time between two checks that a batch's driver is alive; it doubles with each restart."""

SALVAGE_S = 30.0
"""Longest wait for the driver's end before the files of a batch whose job did not succeed are written: until then its
replicas may still save finished rows."""

_FOREIGN_S = 60.0
"""Time after which this server ends a due or cancelled batch of another server's model, if that one has not."""

_CLEAR_S = 3600.0
_THREADS = {"look": 8, "check": 4, "start": 8, "end": 32, "write": 4}
"""Threads for each kind of step, kept apart so that batches that wait for a driver's end, or for a cluster, do not
hold up those that are to be checked, started or written."""

_CANCELLED_BY = "a request to cancel the batch"

_log = logging.getLogger(__name__)


class BatchRunner:
    """Drives every batch under the settings' root, in threads of its own, between `start` and `stop`.

    Args:
        base: the spec of every job; `job_spec` sets the name, the input and what depends on the requests.
        model: the name that requests must give.
        placement: the pool that batches compute in; None: engines of their own.
    """

    def __init__(self, settings: Settings, base: JobSpec, model: str, placement: Placement | None = None) -> None:
        self._settings, self._base, self._model, self._placement = settings, base, model, placement
        store = BatchClient(settings).store
        self._batches, self._files = Batches(store), Files(store)
        self._leftovers = Leftovers(store, self._files, self._batches)
        self._ended: set[str] = set()
        self._expired: set[str] = set()
        self._requests: dict[str, BatchRequest] = {}
        self._under_way: set[str] = set()
        self._looks = Pauses(RESUME_S, MAX_RESUME_S)
        self._seen_ended: dict[str, float] = {}
        self._retry_at: dict[str, float] = {}
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._cleaner = threading.Thread(target=self._clear, name="leftovers", daemon=True)
        self._threads = {kind: ThreadPoolExecutor(n, thread_name_prefix=kind) for kind, n in _THREADS.items()}

    def start(self) -> None:
        """Start, with the batches that exist."""
        self._thread.start()
        self._cleaner.start()

    def clear_leftovers(self) -> None:
        """Remove expired files, and parts that killed servers left behind."""
        requests = [each for batch_id in self._batches.ids() if (each := self._request(batch_id)) is not None]
        self._leftovers.clear({each.input_file_id for each in requests if each.id not in self._ended})
        for request in requests:
            if request.output_expires_after_s is not None and request.id not in self._expired:
                self._expire(request, request.output_expires_after_s)

    def _request(self, batch_id: str) -> BatchRequest | None:
        """Return what was asked for, which never changes and is read once; None where nobody created a batch."""
        if batch_id not in self._requests and (request := self._batches.read(batch_id, "request", BatchRequest)):
            self._requests[batch_id] = request
        return self._requests.get(batch_id)

    def _expire(self, request: BatchRequest, after_s: int) -> None:
        """Delete the job of a batch once its files of answers are gone; the batch itself stays to be seen."""
        outcome = self._batches.read(request.id, "done", Outcome)
        if outcome is None or time.time() < outcome.at + after_s + KEPT_S:
            return
        ledger = self._batches.ledger(request.id)
        if ledger.created_at() is None or expire(BatchClient(self._settings), ledger.job_id):
            self._expired.add(request.id)

    def wake(self) -> None:
        """Look at all batches now: one has been created or cancelled."""
        self._wake.set()

    def stop(self) -> None:
        """End soon. The next server repeats the steps that are under way in other threads."""
        self._stopping.set()
        self._wake.set()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        with suppress(JobsError):  # else each is looked at
            self._ended |= self._batches.ended()
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                for batch_id in self._batches.ids():
                    due = time.monotonic() >= self._retry_at.get(batch_id, 0.0)
                    if due and batch_id not in self._ended and batch_id not in self._under_way:
                        self._under_way.add(batch_id)
                        self._threads["look"].submit(self._guarded, batch_id, self._look)
            except (JobsError, RuntimeError) as error:
                _log.warning("Looking for batches: %s", error)
            self._wake.wait(POLL_S)

    def _clear(self) -> None:
        while not self._stopping.is_set():
            try:
                self.clear_leftovers()
            except Exception:  # noqa: BLE001 - the next pass tries again
                _log.exception("Clearing the folder of files")
            self._stopping.wait(_CLEAR_S)

    def _guarded(self, batch_id: str, step: Callable[[str], bool]) -> None:
        """Take a step, and let the batch be looked at again unless the step has handed it on."""
        try:
            if step(batch_id):
                return
        except (StoreError, ClusterError) as error:
            # The next look tries again.
            _log.warning("Batch %s waits: %s", batch_id, error)
            self._retry_at[batch_id] = time.monotonic() + RESUME_S
        except Exception:  # noqa: BLE001 - one batch must not end the others
            _log.exception("Batch %s", batch_id)
            self._retry_at[batch_id] = time.monotonic() + RESUME_S
        self._under_way.discard(batch_id)

    def _look(self, batch_id: str) -> bool:
        """Hand a batch to the threads of its next step. Returns whether there is one."""
        standing = self._batches.standing(batch_id)
        if standing.outcome is not None:
            self._ended.add(batch_id)
            return False
        kind = self._next_step(standing)
        if kind is not None:
            self._threads[kind].submit(self._guarded, batch_id, self._take)
        return kind is not None

    def _take(self, batch_id: str) -> bool:
        if self.advance(batch_id):
            self._ended.add(batch_id)
            self._looks.forget(batch_id)
        return False

    def _next_step(self, standing: Standing) -> str | None:
        """Return the kind of step that an open batch needs now from this server, or None."""
        batch_id = standing.request.id
        if not self._is_ours(standing):
            # Publishing an outcome that is already decided needs no model.
            return None if self._batches.read(batch_id, "outcome", Outcome) is None else "write"
        if standing.accepted is None:
            return "check"
        if standing.finalizing_at is not None:
            return "write"
        if _ended_by(standing) is not None:
            return "end"
        return None if self._looks.lasts(batch_id) else "start"

    def _is_ours(self, standing: Standing) -> bool:
        """Return whether this server may drive the batch: it has the model, or the model's server fails to end it."""
        model = standing.accepted.model if standing.accepted else standing.request.model
        ends_at = min(standing.request.expires_at, standing.cancel.at if standing.cancel else math.inf)
        return model in (None, self._model) or time.time() >= ends_at + _FOREIGN_S

    def advance(self, batch_id: str) -> bool:
        """Take the next step of a batch, if there is one now. Returns whether the batch has ended."""
        standing = self._batches.standing(batch_id)
        if standing.outcome is not None:
            return True
        if (outcome := self._batches.read(batch_id, "outcome", Outcome)) is not None:
            return self._publish(batch_id, outcome)
        if not self._is_ours(standing):
            return False
        ledger = self._batches.ledger(batch_id)
        if standing.accepted is None:
            return self._validate(standing, ledger)
        terminal = ledger.terminal()
        if terminal is None:
            self._drive(standing, standing.accepted, ledger)
            return False
        if not isinstance(terminal, Succeeded) and not self._has_settled(ledger):
            return False
        found = write_outputs(self._files, ledger, standing.request, standing.accepted, terminal, int(time.time()))
        return self._end(batch_id, found)

    def _validate(self, standing: Standing, ledger: Ledger) -> bool:
        request, now = standing.request, int(time.time())
        if (by := _ended_by(standing)) is not None:
            # Another server may be about to submit the job: with this record there, it starts no driver.
            ledger.end(record := Cancelled(by=by), writer=request.id)
            return self._end(request.id, Outcome(status=ended_as(record), at=now))
        file = self._files.find(request.input_file_id, expired=True)
        if file is None:
            gone = BatchError(code="file_not_found", message="The input file has been deleted.", param="input_file_id")
            return self._end(request.id, Outcome(status="failed", at=now, errors=(gone,)))
        try:
            checked = check_requests(self._files.lines(file), request.endpoint, self._model)
        except ApiError:
            return False  # It is being deleted; the next look finds it gone.
        if checked.errors:
            return self._end(request.id, Outcome(status="failed", at=now, errors=checked.errors))
        try:
            spec = job_spec(self._base, request.id, self._files.uri(file), request.endpoint, checked)
        except ValidationError as error:
            what = sentence(problem(error, JobSpec))
            unfit = BatchError(code="unsupported_value", message=f"This server's settings do not fit: {what}")
            return self._end(request.id, Outcome(status="failed", at=now, errors=(unfit,)))
        accepted = Accepted(spec=spec, model=self._model, total=checked.total, at=now)
        self._batches.write(request.id, "accepted", accepted)
        self._wake.set()
        return False

    def _drive(self, standing: Standing, accepted: Accepted, ledger: Ledger) -> None:
        """Ensure that a driver works on the job, or end the job."""
        if (by := _ended_by(standing)) is not None:
            if ledger.created_at() is None:
                _end_unstarted(ledger, accepted.spec, Cancelled(by=by))
            else:
                BatchClient(self._settings).exact_job(ledger.job_id).cancel(by)
            return
        batch_id = standing.request.id
        if self._looks.lasts(batch_id):
            return
        restarted = False
        client = BatchClient(self._settings)
        try:
            if ledger.created_at() is None:
                client.submit_spec(accepted.spec, ledger.job_id, placement=self._placement)
            elif client.exact_job(ledger.job_id).resume(attended=False):
                said = ledger.interruptions()
                why = f" The last one ended: {said[-1][1].reason}" if said else ""
                _log.warning("Batch %s had no driver; it has one again.%s", batch_id, why)
                restarted = True
        except Conflict:
            # The job has ended meanwhile, or another server submitted it with the model as that server sees it.
            _log.info("Batch %s is at work already", batch_id)
        except UsageError as error:
            record = Failed(code=JobError.INVALID_INPUT, reason=str(error))
            _end_unstarted(ledger, accepted.spec, record)
        # Back off after a restart, so that a driver that dies at once is not restarted endlessly.
        self._looks.begin(batch_id, longer=restarted)

    def _has_settled(self, ledger: Ledger) -> bool:
        """Return whether no driver can save further rows of an ended job, or has had `SALVAGE_S` to do so."""
        since = self._seen_ended.setdefault(ledger.job_id, time.monotonic())
        if (
            time.monotonic() - since < SALVAGE_S
            and BatchClient(self._settings).exact_job(ledger.job_id).may_keep_rows()
        ):
            return False
        self._seen_ended.pop(ledger.job_id, None)
        return True

    def _end(self, batch_id: str, outcome: Outcome) -> bool:
        self._batches.write(batch_id, "outcome", outcome)
        standing = self._batches.read(batch_id, "outcome", Outcome)
        assert standing is not None, "it is write-once"
        return self._publish(batch_id, standing)

    def _publish(self, batch_id: str, outcome: Outcome) -> bool:
        """Publish the files, then the end: whoever sees an ended batch finds its files."""
        for file in (outcome.output, outcome.error_output):
            if file is not None:
                self._files.publish(file)
        self._batches.write(batch_id, "done", outcome)
        return True


def _ended_by(standing: Standing) -> str | None:
    """Return who or what ends a batch that has not ended, or None if it goes on."""
    if standing.cancel is not None:
        return _CANCELLED_BY
    return EXPIRED_BY if time.time() >= standing.request.expires_at else None


def _end_unstarted(ledger: Ledger, spec: JobSpec, record: Failed | Cancelled) -> None:
    """End a job that has no spec yet. The record comes first, so that nobody starts a driver."""
    ledger.end(record, writer=f"serve/{ledger.job_id}")
    with suppress(Conflict):
        ledger.create(spec, writer=f"serve/{ledger.job_id}")
