"""Result rows as response lines of OpenAI's batch format, including their response objects.

See https://platform.openai.com/docs/api-reference/batch/request-output. Every field of a line derives from the job and
the row, `created` from the job's creation time, so that the same results always give the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from jobs.errors import InvalidModel, UsageError
from jobs.ledger import Ledger
from jobs.models.encoding import BYTES_MODEL, Encoder
from jobs.results.values import rows_of
from jobs.values.text import as_json
from schemas.codes import RowError
from schemas.spec import JobSpec

if TYPE_CHECKING:
    import pyarrow as pa

_SERVER_FAULTS = frozenset({RowError.INVALID_FORM, RowError.ENGINE_ERROR, RowError.ENGINE_CRASH, RowError.TIMEOUT})
"""Error codes that are not the request's fault: status 500 instead of 400."""

_OF_THE_PROMPT = frozenset(
    {
        RowError.EMPTY_PROMPT,
        RowError.INVALID_MESSAGES,
        RowError.INVALID_TEXT,
        RowError.ROW_TOO_LARGE,
        RowError.CONTEXT_LENGTH_EXCEEDED,
    }
)
_FIELD = re.compile(r"([a-z_]+)(?:\.[\w.-]+)?: ")
"""The start of a message that names a field of the request."""

_IMPOSSIBLE = -9999.0
"""OpenAI's log probability for a probability of zero, for which JSON has no number."""

_ANCHOR = "a"
"""Text put before a token to decode it: alone, many tokens lose their leading space."""


def model_name(spec: JobSpec) -> str:
    """Return the model's name in responses: the name of its directory."""
    return str(spec.engine.name) if spec.model.path == BYTES_MODEL else PurePath(spec.model.path).name


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Makes the response lines of one job.

    Attributes:
        created: creation time of the job, in seconds since the epoch.
        chat: chat completions rather than plain ones.
        token_text: gives a token's text; empty for a token that is not part of the text, such as the end token.
    """

    job_id: str
    model: str
    created: int
    chat: bool
    token_text: Callable[[int], str] = field(repr=False)

    @classmethod
    def of(cls, ledger: Ledger, model: str | None = None) -> Responses:
        """Build the response writer for one job.

        Args:
            model: the model's name in the lines; default: the name of its directory.

        Raises:
            UsageError: no such job, or its task is scoring.
        """
        spec, created = ledger.spec(), ledger.created_at()
        if spec.scores:
            raise UsageError("OpenAI's batch format has no form for scores.", "Write .jsonl, .parquet or .csv instead.")
        assert created is not None, "it has a spec"
        return cls(
            job_id=ledger.job_id,
            model=model or model_name(spec),
            created=int(created.timestamp()),
            chat=spec.input.chat,
            token_text=_token_texts(spec.model.path),
        )

    def line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Build the line of a result row with all of its columns.

        A row without a `custom_id` gets `row-<row_id>`. An error row becomes the answer that a server would
        have given: 400 if the request is at fault, else 500.
        """
        unique = self._unique(row["row_id"])
        if row["status"] == "ok":
            status_code, body = 200, self._body(row, unique)
        else:
            status_code, body = _refusal(row, chat=self.chat)
        response = {"status_code": status_code, "request_id": f"req_{unique}", "body": body}
        return self._line(row["row_id"], row["custom_id"], response, None)

    def unanswered(self, row_id: int, custom_id: str, code: str, message: str) -> dict[str, Any]:
        """Build the line of a request that was never carried out."""
        return self._line(row_id, custom_id, None, {"code": code, "message": message})

    def _line(self, row_id: int, custom_id: str | None, response: Any, error: Any) -> dict[str, Any]:
        return {
            "id": f"batch_req_{self._unique(row_id)}",
            "custom_id": f"row-{row_id}" if custom_id is None else custom_id,
            "response": response,
            "error": error,
        }

    def _unique(self, row_id: int) -> str:
        return hashlib.sha256(f"{self.job_id}/{row_id}".encode()).hexdigest()[:32]

    def _body(self, row: Mapping[str, Any], unique: str) -> dict[str, Any]:
        prompt_tokens, completion_tokens = row["num_input_tokens"], row["num_generated_tokens"]
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{unique}",
            "object": "chat.completion" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": self._choices(row, unique),
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }

    def _choices(self, row: Mapping[str, Any], unique: str) -> list[dict[str, Any]]:
        first = {"text": row["generated_text"], "finish_reason": row["finish_reason"]}
        completions = [first, *(row.get("outputs") or [])[1:]]
        # The results have the tokens and the calls of a row's first completion only.
        logprobs, calls = self._of_text(row.get("logprobs"), row["finish_reason"]), row.get("tool_calls") or []
        make = self._chat_choice if self.chat else self._text_choice
        return [
            {
                "index": index,
                **_ended(make(each, logprobs if index == 0 else None, calls if index == 0 else (), unique)),
            }
            for index, each in enumerate(completions)
        ]

    def _chat_choice(
        self,
        completion: Mapping[str, Any],
        logprobs: Sequence[Mapping[str, Any]] | None,
        calls: Sequence[Mapping[str, Any]],
        unique: str,
    ) -> dict[str, Any]:
        # A call that cannot be parsed is of no use as a call to the reader: it stays the text that the model wrote.
        texts = [completion["text"], *(call["arguments"] for call in calls if call["error"])]
        content = "\n".join(text for text in texts if text)
        usable = [
            {
                "id": f"call_{unique[:20]}{number:04d}",
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for number, call in enumerate(calls)
            if not call["error"]
        ]
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        reason = completion["finish_reason"]
        if usable:
            message |= {"content": content or None, "tool_calls": usable}
            reason = "tool_calls" if reason == "stop" else reason
        found = None if logprobs is None else {"content": [self._token(t) for t in logprobs], "refusal": None}
        return {"message": message, "logprobs": found, "finish_reason": reason}

    def _text_choice(
        self, completion: Mapping[str, Any], logprobs: Sequence[Mapping[str, Any]] | None, *_: Any
    ) -> dict[str, Any]:
        return {
            "text": completion["text"],
            "logprobs": None if logprobs is None else self._legacy_logprobs(logprobs),
            "finish_reason": completion["finish_reason"],
        }

    def _of_text(
        self, logprobs: Sequence[Mapping[str, Any]] | None, finish_reason: str
    ) -> Sequence[Mapping[str, Any]] | None:
        """Drop the token that ended the text."""
        ended = logprobs and finish_reason == "stop" and not self.token_text(logprobs[-1]["token_id"])
        return logprobs[:-1] if logprobs and ended else logprobs

    def _token(self, token: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._one_token(token), "top_logprobs": [self._one_token(other) for other in token["top"]]}

    def _one_token(self, token: Mapping[str, Any]) -> dict[str, Any]:
        text = self.token_text(token["token_id"])
        # A token that is part of a character has no text of its own.
        whole = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
        return {"token": text, "logprob": _finite(token["logprob"]), "bytes": whole}

    def _legacy_logprobs(self, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tokens = [self.token_text(token["token_id"]) for token in logprobs]
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(token["logprob"]) for token in logprobs],
            "top_logprobs": [self._by_text(token["top"]) for token in logprobs],
            "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
        }

    def _by_text(self, tokens: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Map token text to log probability, most likely first. Of tokens with one text, the likeliest counts."""
        found: dict[str, float] = {}
        for token in tokens:
            if text := self.token_text(token["token_id"]):
                found.setdefault(text, _finite(token["logprob"]))
        return found


def _ended(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a choice with a finish reason that OpenAI knows; `stop_reason` says in vLLM's words what ended a loop."""
    if choice["finish_reason"] != "repetition":
        return choice
    return {**choice, "finish_reason": "stop", "stop_reason": "repetition_detected"}


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _IMPOSSIBLE


def write_responses(tables: Iterable[pa.Table], sink: BinaryIO, responses: Responses) -> int:
    """Write tables with all columns of the results, a line per row; return the number of rows."""
    num_rows = 0
    for table in tables:
        sink.write("".join(f"{as_json(responses.line(row))}\n" for row in rows_of(table)).encode())
        num_rows += table.num_rows
    sink.flush()
    return num_rows


def _refusal(row: Mapping[str, Any], *, chat: bool) -> tuple[int, dict[str, Any]]:
    own = row["error_code"] in _SERVER_FAULTS
    error = {
        "message": row["error_message"] or row["error_code"],
        "type": "server_error" if own else "invalid_request_error",
        "param": None if own else _param(row, chat=chat),
        "code": row["error_code"].lower(),
    }
    return 500 if own else 400, {"error": error}


def _param(row: Mapping[str, Any], *, chat: bool) -> str | None:
    """Return the field of the request that is at fault; None if unknown."""
    if (named := _FIELD.match(row["error_message"] or "")) is not None:
        return named[1]
    if row["error_code"] in _OF_THE_PROMPT:
        return "messages" if chat else "prompt"
    return None


def _token_texts(model_path: str) -> Callable[[int], str]:
    """Return a function that gives a token's text by the model's encoder, or its id if the model is not here."""
    known: dict[int, str] = {}
    anchor: list[int] = []
    loaded: list[Encoder] = []

    def text_of(token_id: int) -> str:
        if token_id not in known:
            known[token_id] = find(token_id)
        return known[token_id]

    def find(token_id: int) -> str:
        from jobs.models.encoding import load_encoder

        try:
            encoder = loaded[0] if loaded else load_encoder(model_path)
        except InvalidModel:
            return f"token_id:{token_id}"
        loaded[:] = [encoder]
        if not anchor:
            [ids] = encoder.encode_continuations([_ANCHOR])
            assert isinstance(ids, list), "a letter can be encoded"
            anchor.extend(ids)
        before = encoder.decode(anchor)
        return encoder.decode([*anchor, token_id]).removeprefix(before)

    return text_of
