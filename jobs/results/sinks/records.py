"""What is written down about a job's exports, beside the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import ValidationError

from jobs.documents import read_document
from jobs.errors import JobsError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from schemas import keys
from schemas.exports import Export, ExportFailure, ExportOutcome

_REMEDY = "Move it away and run the export again: rows that are at the target are found and not written twice."


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportState:
    """How one export of a job stands.

    Attributes:
        outcome: None while it is not done.
        failure: why the last try has failed, if one has and none has succeeded.
    """

    export: Export
    outcome: ExportOutcome | None = None
    failure: ExportFailure | None = None

    @property
    def word(self) -> str:
        """The state as one word."""
        return "done" if self.outcome else "failed" if self.failure else "waiting"


def outcome_of(ledger: Ledger, export: Export) -> ExportOutcome | None:
    """Read the record that an export is done; None if it is not."""
    key = keys.export(export.id, "outcome")
    data = ledger.store.get(ledger.key(key))
    return None if data is None else read_document(data, f"{ledger.uri}/{key}", ExportOutcome.from_json, _REMEDY)


def record_outcome(ledger: Ledger, outcome: ExportOutcome) -> None:
    """Write, once, that an export is done. Of two exporters that both found it done, the first one's record stays."""
    failpoint("export.before_record")
    key = ledger.key(keys.export(outcome.export.id, "outcome"))
    ledger.store.put_new(key, outcome.to_json(), writer=f"export/{uuid4().hex}")
    failpoint("export.after_record")


def record_failure(ledger: Ledger, export: Export, error: JobsError) -> None:
    """Overwrite why the last try of an export has failed."""
    failure = ExportFailure(export=export, reason=error.message, hint=error.hint, at=now())
    ledger.store.put(ledger.key(keys.export(export.id, "failure")), failure.to_json())


def states(ledger: Ledger, asked: Sequence[Export]) -> list[ExportState]:
    """Return how the exports of a job stand: those that were asked for, then others that were done by hand.

    One that was tried by hand and has failed is left out: whoever tried it has been told.
    """
    found = {info.key for info in ledger.store.list(ledger.key(keys.EXPORTS))}
    known = {export.id: ExportState(export=export) for export in asked}
    for key in sorted(found, reverse=True):  # an outcome comes before a failure
        export_id, document = key.split("/")[-2:]
        state = known.get(export_id)
        data = ledger.store.get(key)
        if data is None or (state is not None and state.outcome is not None):
            continue
        try:
            if document == "outcome.json":
                outcome = ExportOutcome.from_json(data)
                known[export_id] = ExportState(export=outcome.export, outcome=outcome)
            elif document == "failure.json" and state is not None:
                known[export_id] = ExportState(export=state.export, failure=ExportFailure.from_json(data))
        except ValidationError:
            continue
    return list(known.values())


def describe(outcome: ExportOutcome) -> str:
    """Return in words what an exporter has found or done."""
    if outcome.superseded_by:
        return f"left out: the rows of {outcome.superseded_by} are there"
    if outcome.found:
        return "done, found there"
    return f"done, in place of {', '.join(outcome.replaced)}" if outcome.replaced else "done"


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
