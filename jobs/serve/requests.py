"""Checks the lines of an input file, and builds the job that answers them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.dataset.requests import asked_for_logprobs
from jobs.values.cells import is_encodable
from schemas.batches import BatchError, Endpoint
from schemas.spec import JobSpec

MAX_ERRORS = 100
"""Number of faulty lines that are reported; the rest of the file is not checked."""

_CHAT: Endpoint = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Findings of one pass over the lines.

    Attributes:
        errors: why the batch cannot run; empty if it can.
        total: number of requests.
        completions: whether any request sets how many completions it wants.
        logprobs: whether any asks for log-probabilities.
    """

    errors: tuple[BatchError, ...]
    total: int
    completions: bool
    logprobs: bool


def check_requests(lines: Iterable[tuple[int, bytes]], endpoint: Endpoint, model: str) -> Checked:
    """Check that each line is a request of this batch. Other faults in a body fail only that request.

    Args:
        lines: pairs of a line's number, from 1, and its bytes.
        model: the name that every body must give.
    """
    seen = _Seen(endpoint, model)
    total = 0
    for number, line in lines:
        total += 1
        seen.check(number, line)
        if len(seen.errors) >= MAX_ERRORS:
            break
    if not total:
        seen.errors.append(BatchError(code="empty_file", message="The input file has no requests."))
    return Checked(errors=tuple(seen.errors), total=total, completions=seen.completions, logprobs=seen.logprobs)


def job_spec(base: JobSpec, batch_id: str, input_uri: str, endpoint: Endpoint, checked: Checked) -> JobSpec:
    """Build the job that answers the requests: the server's own spec, over the input file.

    The columns of its results depend on all requests; the answer to a request depends on that request alone.
    """
    return base.evolve(
        name=batch_id,
        input=base.input.evolve(uri=input_uri, chat=endpoint == _CHAT),
        sampling=base.sampling.evolve(n=1, logprobs=None),
        output_completions=checked.completions,
        output_logprobs=checked.logprobs,
        # A batch completes however many of its requests fail.
        max_error_rate=1.0,
    )


@dataclass(slots=True)
class _Seen:
    endpoint: Endpoint
    model: str
    errors: list[BatchError] = field(default_factory=list)
    completions: bool = False
    logprobs: bool = False
    _custom_ids: set[bytes] = field(default_factory=set)

    def check(self, number: int, line: bytes) -> None:
        try:
            found = next(self._faults(json.loads(line)), None)
        except (ValueError, RecursionError):
            found = ("invalid_json_line", "This line is not JSON.", None)
        if found is not None:
            code, message, param = found
            self.errors.append(BatchError(code=code, message=message, line=number, param=param))

    def _faults(self, request: Any) -> Iterator[tuple[str, str, str | None]]:
        """Yield the reasons why a line is not a request of this batch, in the order of the checks."""
        if not isinstance(request, dict):
            yield "invalid_json_line", "This line is not a JSON object.", None
            return
        yield from self._custom_id_faults(request.get("custom_id"))
        if request.get("method") != "POST":
            yield "invalid_method", "The method must be POST.", "method"
        if request.get("url") != self.endpoint:
            yield "invalid_url", f"The url must be the batch's endpoint, {self.endpoint}.", "url"
        body = request.get("body")
        if not isinstance(body, dict):
            yield "missing_required_parameter", "The body is missing.", "body"
            return
        if body.get("model") != self.model:
            yield "model_not_found", f"The model must be {self.model!r}, which this server runs.", "body.model"
        name, kind = ("messages", list) if self.endpoint == _CHAT else ("prompt", str | list)
        if not isinstance(body.get(name), kind):
            yield "missing_required_parameter", f"The body has no {name}.", f"body.{name}"
            return
        self.completions = self.completions or body.get("n") not in (None, 1)
        self.logprobs = self.logprobs or asked_for_logprobs(body)

    def _custom_id_faults(self, custom_id: Any) -> Iterator[tuple[str, str, str | None]]:
        if not isinstance(custom_id, str) or not custom_id or not is_encodable(custom_id):
            yield "missing_required_parameter", "The custom_id is missing, or is not text.", "custom_id"
            return
        known = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if known in self._custom_ids:
            yield "duplicate_custom_id", "An earlier line has the same custom_id.", "custom_id"
        self._custom_ids.add(known)
