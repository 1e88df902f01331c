"""The lines of an input file: whether a batch of them can run, and the job that answers it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.dataset.requests import only_text
from jobs.row_values import is_encodable
from schemas.batches import BatchError, Endpoint
from schemas.spec import JobSpec

MAX_ERRORS = 100
"""So many faulty lines are reported; the rest of the file is not looked at."""

_CHAT: Endpoint = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What one pass over the lines found.

    Attributes:
        errors: why the batch cannot run; empty if it can.
        total: number of requests.
        num_choices: completions per request, the same for all.
        logprobs: the most that any request asks for; None if none does.
    """

    errors: tuple[BatchError, ...]
    total: int
    num_choices: int
    logprobs: int | None


def check_requests(lines: Iterable[tuple[int, bytes]], endpoint: Endpoint, model: str) -> Checked:
    """Check what makes a line a request of this batch. What a body asks for beyond that costs its request only.

    Args:
        lines: each with its number, from 1.
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
    return Checked(errors=tuple(seen.errors), total=total, num_choices=seen.num_choices or 1, logprobs=seen.logprobs)


def job_spec(base: JobSpec, batch_id: str, input_uri: str, endpoint: Endpoint, checked: Checked) -> JobSpec:
    """The job that answers the requests: the server's own spec, over the input file.

    Several choices need sampling: where the server decodes greedily, their temperature is OpenAI's default, 1.
    """
    sampling: dict[str, Any] = {"n": checked.num_choices, "logprobs": checked.logprobs}
    if checked.num_choices > 1 and base.sampling.temperature == 0.0:
        sampling["temperature"] = 1.0
    return base.evolve(
        name=batch_id,
        input=base.input.evolve(uri=input_uri, chat=endpoint == _CHAT),
        sampling=base.sampling.evolve(**sampling),
        # A batch completes however many of its requests fail.
        max_error_rate=1.0,
    )


def asked_for_logprobs(body: Mapping[str, Any]) -> bool:
    """Whether a request wants them: a job that computes them does so for every row."""
    return body.get("logprobs") not in (None, False)


@dataclass(slots=True)
class _Seen:
    endpoint: Endpoint
    model: str
    errors: list[BatchError] = field(default_factory=list)
    num_choices: int | None = None
    logprobs: int | None = None
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
        """Why a line is no request of this batch, the first reason first."""
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
        if name == "prompt" and only_text(body.get("prompt")) is None:
            yield (
                "unsupported_value",
                "Several prompts, or token ids, in one request are not supported; write one request for each.",
                "body.prompt",
            )
        yield from self._choice_faults(body)

    def _custom_id_faults(self, custom_id: Any) -> Iterator[tuple[str, str, str | None]]:
        if not isinstance(custom_id, str) or not custom_id or not is_encodable(custom_id):
            yield "missing_required_parameter", "The custom_id is missing, or is not text.", "custom_id"
            return
        known = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if known in self._custom_ids:
            yield "duplicate_custom_id", "An earlier line has the same custom_id.", "custom_id"
        self._custom_ids.add(known)

    def _choice_faults(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
        wanted = 1 if body.get("n") is None else body["n"]
        if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= 128:
            yield "invalid_value", "n must be a whole number from 1 to 128.", "body.n"
            return
        self.num_choices = wanted if self.num_choices is None else self.num_choices
        if wanted != self.num_choices:
            yield "unsupported_value", "n must be the same in all requests of a batch.", "body.n"
        if wanted > 1 and (asked_for_logprobs(body) or body.get("tools")):
            yield "unsupported_value", "n above 1 cannot be combined with logprobs or tools.", "body.n"
        if asked_for_logprobs(body):
            most = body.get("top_logprobs") or 0 if body["logprobs"] is True else body["logprobs"]
            if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= 20:
                yield "invalid_value", "logprobs and top_logprobs are at most 20.", "body.logprobs"
                return
            self.logprobs = max(most, self.logprobs or 0)
