"""Record of why a driver ends before its job does, in the job directory."""

from __future__ import annotations

import logging

from jobs.errors import JobsError
from jobs.ledger import Ledger
from jobs.store import open_store
from schemas.records import Interruption
from workers.failures import account_for

log = logging.getLogger(__name__)

RECORD_S = 10.0
"""Limit on writing the record: the store may itself be why the driver is interrupted."""


def record_interruption(ledger: Ledger, driver_id: str, error: BaseException) -> Interruption:
    """Write into the job directory why its driver ends, if the store allows it. The first record of a driver stands.

    Returns:
        The record, for a caller that must report it without the store.
    """
    interruption = account_for(error, driver=driver_id, job_id=ledger.job_id)
    try:
        Ledger(open_store(ledger.store.uri, patience_s=RECORD_S), ledger.job_id).interrupt(interruption)
    except JobsError as refused:
        log.warning("The reason why the driver ends could not be written to the store: %s", refused)
    return interruption
