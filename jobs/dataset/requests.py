"""Requests of OpenAI's batch format as rows: https://platform.openai.com/docs/guides/batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.values.cells import RowFailure
from schemas.codes import RowError

_NO_EFFECT = frozenset({"model", "user", "metadata", "store", "safety_identifier", "prompt_cache_key"})
"""Fields that change no answer. The model is the job's; `jobs serve` checks that it is the requested one."""

_DEFAULTS: Mapping[str, Any] = {
    "stream": False,
    "echo": False,
    "best_of": 1,
    "parallel_tool_calls": True,
    "service_tier": "auto",
    "modalities": ["text"],
    "tool_choice": "auto",
    "top_logprobs": 0,
}
"""Unsupported options, with the default values that can be ignored."""

_PATH = re.compile(r"/[a-z0-9/_-]{1,60}")


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

_ENDPOINTS = (CHAT, COMPLETIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnsupportedEndpoint(RowFailure):
    """The failure of a request for an endpoint that this system does not have."""

    @property
    def hint(self) -> str:
        """Hint for the user; the message names the supported endpoints."""
        return "Write each request for one of these."


def is_request(line: Mapping[str, Any]) -> bool:
    """Return whether a JSON line is a request of this format rather than a plain row."""
    return isinstance(line.get("body"), dict) and ("custom_id" in line or "url" in line)


def request_failure(line: Mapping[str, Any]) -> RowFailure | None:
    """Return why a request cannot be answered, apart from reasons in single fields, which are checked later."""
    url, body = line.get("url"), line["body"]
    if url is not None and url not in _ENDPOINTS:
        named = f" {url}" if isinstance(url, str) and _PATH.fullmatch(url) else ""
        return UnsupportedEndpoint(
            code=RowError.INVALID_MESSAGES,
            message=f"url: the endpoint{named} is not supported; {' and '.join(_ENDPOINTS)} are",
        )
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if len(limits) > 1 and (limits[0] != limits[1] or type(limits[0]) is not type(limits[1])):
        return RowFailure(
            code=RowError.INVALID_SAMPLING,
            message="max_tokens: max_completion_tokens is another number; give one of them",
        )
    if _is_chat(line) and not isinstance(body.get("logprobs"), bool | None):
        return RowFailure(
            code=RowError.INVALID_SAMPLING,
            message="logprobs: true or false is wanted in a chat, and top_logprobs for their number",
        )
    prompt = _only(body.get("prompt"))
    if not _is_chat(line) and isinstance(prompt, list) and not _is_token_ids(prompt):
        return RowFailure(
            code=RowError.INVALID_MESSAGES,
            message="prompt: a request has one, as text or as token ids; write a request for each",
        )
    several = isinstance(body.get("n"), int | float) and body["n"] > 1
    if several and (asked_for_logprobs(body) or body.get("tools")):
        # The results have the log-probabilities and the calls of a row's first completion only.
        return RowFailure(
            code=RowError.INVALID_SAMPLING, message="n: above 1 it cannot be combined with logprobs or tools"
        )
    return None


def asked_for_logprobs(body: Mapping[str, Any]) -> bool:
    """Return whether a request wants log-probabilities; 0 asks for those of the chosen tokens."""
    return body.get("logprobs") is not None and body["logprobs"] is not False


def _is_chat(line: Mapping[str, Any]) -> bool:
    return line.get("url") != COMPLETIONS and "messages" in line["body"]


def request_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a request to a row.

    Nothing is dropped silently: unsupported fields stay among the sampling values, which refuse unknown names, so
    that the request becomes an error row that names the field.
    """
    body: dict[str, Any] = line["body"]
    chat = _is_chat(line)
    sampling = {name: value for name, value in body.items() if value is not None and name not in _NO_EFFECT}
    row: dict[str, Any] = {"custom_id": line.get("custom_id")}
    if chat:
        row["messages"] = sampling.pop("messages", None)
        tools = sampling.pop("tools", None)
        if sampling.get("tool_choice") == "none":
            del sampling["tool_choice"]
        elif tools is not None and tools != []:
            row["tools"] = tools
    elif "prompt" in body:
        prompt = _only(body["prompt"])
        row["prompt"] = prompt if isinstance(prompt, str) else None
        if _is_token_ids(prompt):
            row["prompt_token_ids"] = prompt
        if isinstance(prompt, str) or _is_token_ids(prompt):
            del sampling["prompt"]
    if "response_format" in sampling:
        row["response_format"] = sampling.pop("response_format")
    row["sampling_params"] = _sampling(sampling, chat=chat) or None
    return row


def _sampling(given: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """Return the sampling values under this system's names."""
    values = {name: value for name, value in given.items() if not _asks_for_nothing(name, value)}
    if "max_completion_tokens" in values:
        values["max_tokens"] = values.pop("max_completion_tokens")
    if isinstance(values.get("stop"), str):
        values["stop"] = [values["stop"]]
    if chat and values.pop("logprobs", False) is True:
        values["logprobs"] = values.pop("top_logprobs", 0)
    return values


def _asks_for_nothing(name: str, value: Any) -> bool:
    return name in _DEFAULTS and value == _DEFAULTS[name] and type(value) is type(_DEFAULTS[name])


def _only(prompt: Any) -> Any:
    """Return the only prompt of a request, which may be a list of one."""
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list) else prompt


def _is_token_ids(prompt: Any) -> bool:
    """Return whether a prompt is token ids, which are used verbatim: nothing is prepended."""
    return isinstance(prompt, list) and bool(prompt) and all(type(token) is int for token in prompt)
