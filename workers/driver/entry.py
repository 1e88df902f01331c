"""Entry of a driver: from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

from jobs.buckets import check_bucket, of_environment
from jobs.errors import Exit, JobsError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.results.gates import describe
from jobs.store import open_store
from jobs.traces import hide_messages_in_logs
from schemas.codes import InterruptionCode
from schemas.environment import SUBMISSION_ID
from schemas.markers import MARK
from schemas.records import Failed, Succeeded
from workers.driver.cluster import Cluster
from workers.driver.driver import Driver, TerminalRecord
from workers.driver.last_word import say_why
from workers.failures import JobInterruption, account_for
from workers.messages import STORE_PATIENCE_S

log = logging.getLogger(__name__)

TOLD_TO_STOP = 128 + signal.SIGTERM
"""Exit code of a driver that has stopped because of SIGTERM."""


def _set_up_logging() -> None:
    """Log one line per event, from driver and replicas."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    hide_messages_in_logs()


def run_job(
    ledger: Ledger,
    driver_id: str,
    connect: Callable[[], Cluster],
    run: Callable[[Coroutine[Any, Any, TerminalRecord]], TerminalRecord] = asyncio.run,
) -> TerminalRecord:
    """Run a job until it has ended. If it has already succeeded, only make sure that `_SUCCESS` exists.

    Args:
        connect: returns the cluster; called only if the job has not ended.
        run: runs the driver's coroutine.

    Raises:
        JobInterruption, StoreError: the job is interrupted and can be resumed.
    """
    record = ledger.terminal()
    if record is None:
        return run(Driver(ledger, driver_id, connect()).run())
    if isinstance(record, Succeeded):
        ledger.publish(record.manifest, writer=driver_id)
    return record


def main(job_uri: str, connect: Callable[[str], Cluster], *, store_patience_s: float = STORE_PATIENCE_S) -> int:
    """Run the job and return the exit code that Ray sees.

    Args:
        connect: returns the cluster, given a Ray namespace.
        store_patience_s: an outage of the store longer than this interrupts the job.
    """
    _set_up_logging()
    failpoint("driver.start")
    driver_id = os.environ.get(SUBMISSION_ID) or f"driver-{uuid4().hex[:8]}"
    root_uri, _, job_id = job_uri.rstrip("/").rpartition("/")
    ledger: Ledger | None = None
    try:
        allowed = of_environment()
        check_bucket(root_uri, allowed)
        ledger = Ledger(open_store(root_uri, patience_s=store_patience_s), job_id)
        if allowed is not None:
            check_bucket(ledger.spec().input.uri, allowed)
        record = run_job(ledger, driver_id, lambda: connect(f"{job_id}/{driver_id}"), _run_until_told)
    except Exception as error:
        if isinstance(error, JobsError):
            log.error("%s", error)
        else:
            log.exception("the driver has failed; nothing committed is lost, go on with: jobs resume %s", job_id)
        if ledger is None:
            interruption = account_for(error, driver=driver_id, job_id=job_id)
        else:
            interruption = say_why(ledger, driver_id, error)
        # Printed last: Ray keeps the end of a driver's output in its own record of the job.
        print(f"{MARK}{interruption.model_dump_json()}", flush=True)
        if isinstance(error, JobInterruption) and error.code is InterruptionCode.STOPPED:
            return TOLD_TO_STOP
        return error.exit_code if isinstance(error, JobsError) else Exit.JOB_FAILED
    print(f"{job_id}: {record.state}" + (f": {record.code}: {record.reason}" if isinstance(record, Failed) else ""))
    if isinstance(record, Succeeded) and record.manifest.crossed_gates:
        print(f"{job_id}: {describe(record.manifest.crossed_gates)}")
        return Exit.GATE_CROSSED
    return Exit.JOB_FAILED if isinstance(record, Failed) else Exit.OK


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
