"""The repair of a job from its page: which rows may be computed again, and the new job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.client import BatchClient
from jobs.errors import Conflict, UsageError
from jobs.schedules.repairs import Night, night_of
from jobs.spec.build import new_job_id
from jobs.status.summary import Summary
from jobs.ui.site import Site
from schemas.codes import ENDED

MAX_TOKENS = 1_000_000

_CONDITIONS = {
    "errors": "status=error",
    "cut": "finish_reason=length",
    "loops": "finish_reason=repetition",
}
"""Conditions on the rows that are computed again, by what the form calls them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What the page of a repair offers.

    Attributes:
        rows: what may be chosen, with a text that says how many rows it has.
        job_id: id that the new job gets, so that a form that is sent twice makes one; empty: the night's next round.
        night: what becomes of a repaired night, in a sentence.
    """

    rows: Mapping[str, str]
    job_id: str
    night: str


def offer_of(site: Site, job_id: str) -> Offer:
    """Return what can be repaired about a job that has ended.

    Raises:
        UsageError: there is no such job.
        Conflict: nothing can be repaired, or its night is not done.
    """
    summary = site.summary(job_id)
    rows = _rows(summary)
    if summary.state not in ENDED or not summary.rows_done or not rows:
        raise Conflict(f"Job {job_id} has no rows to repair.", "Its page says how it stands.")
    try:
        night = night_of(site.nights.book, job_id)
    except UsageError as error:
        raise Conflict(error.message, error.hint) from error
    if isinstance(night, Night):
        said = f"It is the next round of {night}: if it succeeds, the scheduler publishes it as the night's results."
        return Offer(rows=rows, job_id="", night=said)
    return Offer(rows=rows, job_id=new_job_id(summary.name), night=night or "")


def repair(site: Site, job_id: str, form: Mapping[str, str]) -> str:
    """Submit the job that a form asks for; return its id.

    Raises:
        UsageError: there is no such job.
        Conflict: the form, or the state of the job, does not allow it.
        StoreError, ClusterError: store or cluster cannot be used.
    """
    job = BatchClient(site.settings).exact_job(job_id)
    job.ledger.spec()
    where = _CONDITIONS.get(form.get("rows", ""))
    if where is None:
        raise Conflict("The form does not say which rows to compute.", "Load the page again.")
    options = {}
    if text := form.get("max_tokens", "").strip():
        if not text.isascii() or not text.isdecimal() or not 0 < int(text[:9]) <= MAX_TOKENS or len(text) > 9:
            raise Conflict(f"The token limit is not a whole number from 1 to {MAX_TOKENS:,}.", "Go back and change it.")
        options["max_tokens"] = int(text)
    try:
        return job.retry(where=where, job_id=form.get("new_id") or None, **options).id
    except UsageError as error:
        raise Conflict(error.message, error.hint) from error


def _rows(summary: Summary) -> dict[str, str]:
    """Return the choices that have rows."""
    ways = summary.quality.finish_reasons if summary.quality else {}
    missing = max(0, (summary.rows_total or 0) - summary.rows_done)
    counts = {"errors": summary.rows_error, "cut": ways.get("length", 0), "loops": ways.get("repetition", 0)}
    words = {"errors": "error rows", "cut": "answers cut at their token limit", "loops": "answers that ended in a loop"}
    found = {
        name: f"{count:,} {words[name]}" for name, count in counts.items() if count or (name == "errors" and missing)
    }
    if missing:
        found = {}
    for name, count in counts.items():
        if count or (name == "errors" and missing):
            parts = [f"{count:,} {words[name]}"] if count else []
            found[name] = " and ".join([*parts, *([f"{missing:,} rows without a result"] if missing else [])])
    return found
