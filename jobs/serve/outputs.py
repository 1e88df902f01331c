"""Writes a batch's answers as two files: one for requests that succeeded, one for all others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.dataset.requests import asked_for_logprobs
from jobs.errors import JobsError, StoreError
from jobs.ledger import Ledger
from jobs.results.read import open_results
from jobs.results.responses import Responses
from jobs.results.values import rows_of
from jobs.serve.errors import ApiError
from jobs.serve.files import Files, FileWriter
from jobs.values.text import as_json
from schemas.batches import Accepted, BatchError, BatchRequest, Outcome, StoredFile, Usage
from schemas.codes import BatchEnd
from schemas.records import Cancelled, Failed, Succeeded

EXPIRED_BY = "end of the completion window"
"""Recorded as who cancelled the job of a batch that took too long."""

_UNANSWERED: Mapping[BatchEnd, str] = {
    "expired": "This request was not carried out before the completion window ended.",
    "cancelled": "This request was not carried out before the batch was cancelled.",
    "failed": "This request was not carried out before the batch failed.",
}


def ended_as(terminal: Succeeded | Failed | Cancelled) -> BatchEnd:
    """Return the batch's status after the end of its job."""
    if isinstance(terminal, Succeeded):
        return "completed"
    if isinstance(terminal, Failed):
        return "failed"
    return "expired" if terminal.by == EXPIRED_BY else "cancelled"


def write_outputs(
    files: Files,
    ledger: Ledger,
    request: BatchRequest,
    accepted: Accepted,
    terminal: Succeeded | Failed | Cancelled,
    at: int,
) -> Outcome:
    """Write the two files and return how the batch ended. They exist once they are published.

    A request without a result, in a batch that did not complete, gets an error line if the input file still exists.

    Raises:
        StoreError: the store cannot be reached, or a result is damaged.
    """
    status = ended_as(terminal)
    suffix = request.id.removeprefix("batch_")
    good = files.writer(f"file-{suffix}-output")
    bad = files.writer(f"file-{suffix}-errors")
    responses = Responses.of(ledger, accepted.model)
    completed = failed = input_tokens = output_tokens = 0
    for row_id, asked, row in _requests_and_rows(files, ledger, request):
        if row is None:
            line = responses.unanswered(row_id, asked["custom_id"], f"batch_{status}", _UNANSWERED[status])
        else:
            if asked is not None and not asked_for_logprobs(asked["body"]):
                row["logprobs"] = None
            line = responses.line(row)
        ok = row is not None and row["status"] == "ok"
        if row is not None and ok:
            input_tokens += row["num_input_tokens"]
            output_tokens += row["num_generated_tokens"]
        completed, failed = completed + ok, failed + (not ok)
        (good if ok else bad).write(f"{as_json(line)}\n".encode())
    errors = (BatchError(code=terminal.code.lower(), message=terminal.reason),) if isinstance(terminal, Failed) else ()
    return Outcome(
        status=status,
        at=at,
        total=accepted.total,
        completed=completed,
        failed=failed,
        usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
        errors=errors,
        output=_closed(good, "output", request) if completed else None,
        error_output=_closed(bad, "errors", request) if failed else None,
    )


def _closed(writer: FileWriter, kind: str, request: BatchRequest) -> StoredFile:
    return writer.close(
        filename=f"{request.id}_{kind}.jsonl",
        purpose="batch_output",
        # The time now, not of the first write: clients that page through the list find this file after earlier ones.
        created_at=time.time(),
        expires_after_s=request.output_expires_after_s,
    )


def _requests_and_rows(
    files: Files, ledger: Ledger, request: BatchRequest
) -> Iterator[tuple[int, Any, dict[str, Any] | None]]:
    """Yield every row id with its request (None if the input file is gone) and its result row (None if missing)."""
    rows = _rows(ledger)
    row = next(rows, None)
    for row_id, asked in enumerate(_requests(files, request.input_file_id)):
        if row is not None and row["row_id"] == row_id:
            yield row_id, asked, row
            row = next(rows, None)
        else:
            yield row_id, asked, None
    while row is not None:
        yield row["row_id"], None, row
        row = next(rows, None)


def _requests(files: Files, file_id: str) -> Iterator[Any]:
    file = files.find(file_id, expired=True)
    if file is None:
        return
    try:
        for _, line in files.lines(file):
            yield json.loads(line)
    except ApiError:
        return  # The file is being deleted.


def _rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the committed rows in order."""
    try:
        results = open_results(ledger)
    except StoreError:
        raise
    except JobsError:
        return  # Nothing is committed.
    for table in results.tables():
        yield from rows_of(table)
