"""The interrupted driver's last report: writes the reason into the job directory."""

from __future__ import annotations

import logging

from jobs.errors import JobsError
from jobs.ledger import Ledger
from jobs.store import open_store
from schemas.records import Interruption
from workers.failures import account_for

log = logging.getLogger(__name__)

LAST_WORD_S = 10.0
"""Limit on writing the reason to the store, which may itself be why the driver is interrupted."""


def say_why(ledger: Ledger, driver_id: str, error: BaseException) -> Interruption:
    """Write into the job directory why its driver ends, if the store allows it. The first record stands.

    Returns:
        The record, for a caller that must report it without the store.
    """
    interruption = account_for(error, driver=driver_id, job_id=ledger.job_id)
    try:
        Ledger(open_store(ledger.store.uri, patience_s=LAST_WORD_S), ledger.job_id).interrupt(interruption)
    except JobsError as refused:
        log.warning("why the driver ends is not in the store: %s", refused)
    return interruption
