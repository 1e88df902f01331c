"""Entry of a driver: from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from jobs.buckets import check_bucket, check_buckets, of_environment
from jobs.errors import Exit, JobsError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.results.gates import describe
from jobs.starting import StartClock
from jobs.status.job_status import ended_state
from jobs.store import open_store
from schemas.codes import InterruptionCode
from schemas.environment import SUBMISSION_ID
from schemas.logs import LogLine
from schemas.markers import MARK
from schemas.records import Failed, Succeeded
from workers import logs
from workers.driver.cluster import Cluster
from workers.driver.driver import Driver, TerminalRecord
from workers.driver.interruption import record_interruption
from workers.driver.job_log import LAST_WRITE_S, JobLog
from workers.failures import JobInterruption, account_for
from workers.messages import STORE_PATIENCE_S

log = logging.getLogger(__name__)

TOLD_TO_STOP = 128 + signal.SIGTERM
"""Exit code of a driver that has stopped because of SIGTERM."""


def run_job(
    ledger: Ledger,
    driver_id: str,
    connect: Callable[[], Cluster],
    run: Callable[[Coroutine[Any, Any, TerminalRecord]], TerminalRecord] = asyncio.run,
    on_log: Callable[[Iterable[LogLine]], None] = lambda _: None,
    starting: StartClock | None = None,
) -> TerminalRecord:
    """Run a job until it has ended. If it has already succeeded, only make sure that `_SUCCESS` exists.

    Args:
        connect: returns the cluster; called only if the job has not ended.
        run: runs the driver's coroutine.
        on_log: called with the lines that replicas log.
        starting: measures the driver's start, which is then stored.

    Raises:
        JobInterruption, StoreError: the job is interrupted and can be resumed.
    """
    record = ledger.terminal()
    if record is None:
        if starting is not None:
            starting.mark("process, imports, the job's documents")
        cluster = connect()
        if starting is not None:
            starting.mark("connection to the cluster")
        return run(Driver(ledger, driver_id, cluster, on_log, starting).run())
    if isinstance(record, Succeeded):
        ledger.publish(record.manifest, writer=driver_id)
    return record


def main(
    job_uri: str,
    connect: Callable[[Ledger, str], Cluster],
    *,
    store_patience_s: float = STORE_PATIENCE_S,
    starting: StartClock | None = None,
) -> int:
    """Run the job and return the exit code that Ray sees.

    Args:
        connect: returns the cluster, given the job and the driver's id.
        store_patience_s: an outage of the store longer than this interrupts the job.
        starting: measures the driver's start; None begins with this process.
    """
    logs.set_up()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    failpoint("driver.start")
    starting = starting or StartClock.of_process("driver")
    driver_id = os.environ.get(SUBMISSION_ID) or f"driver-{uuid4().hex[:8]}"
    with ExitStack() as until_end:
        return _run(job_uri, driver_id, connect, store_patience_s, until_end, starting)


def _run(
    job_uri: str,
    driver_id: str,
    connect: Callable[[Ledger, str], Cluster],
    store_patience_s: float,
    until_end: ExitStack,
    starting: StartClock,
) -> int:
    root_uri, _, job_id = job_uri.rstrip("/").rpartition("/")
    ledger: Ledger | None = None
    try:
        allowed = of_environment()
        check_bucket(root_uri, allowed)
        ledger = Ledger(open_store(root_uri, patience_s=store_patience_s), job_id)
        job_log = until_end.enter_context(JobLog(open_store(root_uri, patience_s=LAST_WRITE_S), job_id, driver_id))
        if allowed is not None:
            check_buckets(ledger.spec().input.uris, allowed)
        record = run_job(ledger, driver_id, lambda: connect(ledger, driver_id), _run_until_told, job_log.add, starting)
    except Exception as error:
        if isinstance(error, JobsError):
            log.error("%s", error)
        else:
            log.exception("the driver has failed; nothing committed is lost, go on with: jobs resume %s", job_id)
        if ledger is None:
            interruption = account_for(error, driver=driver_id, job_id=job_id)
        else:
            interruption = record_interruption(ledger, driver_id, error)
        # Printed last: Ray keeps the end of a driver's output in its own record of the job.
        print(f"{MARK}{interruption.model_dump_json()}", flush=True)
        if isinstance(error, JobInterruption) and error.code is InterruptionCode.STOPPED:
            return TOLD_TO_STOP
        if isinstance(error, JobInterruption) and error.code is InterruptionCode.PAUSED:
            return Exit.OK  # nothing is wrong
        return error.exit_code if isinstance(error, JobsError) else Exit.JOB_FAILED
    if isinstance(record, Failed):
        log.error("job %s has ended: %s: %s: %s", job_id, record.state, record.code, record.reason)
        return Exit.JOB_FAILED
    log.info("job %s has ended: %s", job_id, ended_state(record))
    if isinstance(record, Succeeded) and record.manifest.crossed_gates:
        log.warning("%s", describe(record.manifest.crossed_gates))
        return Exit.GATE_CROSSED
    return export(ledger, allowed) if isinstance(record, Succeeded) else Exit.OK


def export(ledger: Ledger, allowed_buckets: Collection[str] | None) -> int:
    """Export a succeeded job as its spec asks; the client may have gone long ago. Returns the exit code.

    The job has ended whatever comes of it: why an export has failed is written beside it, and `jobs export` goes on.
    """
    from jobs.results.sinks.addresses import exports_of
    from jobs.results.sinks.exporting import export_all

    try:
        if not (wanted := exports_of(ledger.spec().export)):
            return Exit.OK
        log.info("job %s is exported to %s", ledger.job_id, ", ".join(each.target for each in wanted))
        done = export_all(ledger, wanted, allowed_buckets=allowed_buckets)
    except JobsError as error:
        log.error("%s", error)
        return error.exit_code
    except Exception:
        log.exception("the export has failed; go on with: jobs export %s", ledger.job_id)
        return Exit.JOB_FAILED
    for each in done:
        if each.error is not None:
            log.error("the export to %s has failed: %s", each.export.target, each.error)
    return next((each.error.exit_code for each in done if each.error is not None), Exit.OK)


def _run_until_told(work: Coroutine[Any, Any, TerminalRecord]) -> TerminalRecord:
    """Run the driver's coroutine; SIGTERM interrupts it. Ray's own handler would end the process silently."""

    async def stoppable() -> TerminalRecord:
        running = asyncio.ensure_future(work)
        told = False

        def stop() -> None:
            nonlocal told
            if not told:  # a second signal must not cut the clean-up short
                told = running.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await running

    return asyncio.run(stoppable())
