"""Entry of a driver: from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from jobs.buckets import check_bucket, check_buckets, of_environment
from jobs.errors import Exit, JobsError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.results.gates import describe
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
) -> TerminalRecord:
    """Run a job until it has ended. If it has already succeeded, only make sure that `_SUCCESS` exists.

    Args:
        connect: returns the cluster; called only if the job has not ended.
        run: runs the driver's coroutine.
        on_log: called with the lines that replicas log.

    Raises:
        JobInterruption, StoreError: the job is interrupted and can be resumed.
    """
    record = ledger.terminal()
    if record is None:
        return run(Driver(ledger, driver_id, connect(), on_log).run())
    if isinstance(record, Succeeded):
        ledger.publish(record.manifest, writer=driver_id)
    return record


def main(job_uri: str, connect: Callable[[str], Cluster], *, store_patience_s: float = STORE_PATIENCE_S) -> int:
    """Run the job and return the exit code that Ray sees.

    Args:
        connect: returns the cluster, given a Ray namespace.
        store_patience_s: an outage of the store longer than this interrupts the job.
    """
    logs.set_up()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    failpoint("driver.start")
    driver_id = os.environ.get(SUBMISSION_ID) or f"driver-{uuid4().hex[:8]}"
    with ExitStack() as until_end:
        return _run(job_uri, driver_id, connect, store_patience_s, until_end)


def _run(
    job_uri: str, driver_id: str, connect: Callable[[str], Cluster], store_patience_s: float, until_end: ExitStack
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
        record = run_job(ledger, driver_id, lambda: connect(f"{job_id}/{driver_id}"), _run_until_told, job_log.add)
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
        return error.exit_code if isinstance(error, JobsError) else Exit.JOB_FAILED
    if isinstance(record, Failed):
        log.error("job %s has ended: %s: %s: %s", job_id, record.state, record.code, record.reason)
        return Exit.JOB_FAILED
    log.info("job %s has ended: %s", job_id, ended_state(record))
    if isinstance(record, Succeeded) and record.manifest.crossed_gates:
        log.warning("%s", describe(record.manifest.crossed_gates))
        return Exit.GATE_CROSSED
    return Exit.OK


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
