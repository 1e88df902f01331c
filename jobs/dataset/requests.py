"""Requests of OpenAI's batch format as rows: https://platform.openai.com/docs/guides/batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NO_EFFECT = frozenset({"model", "user", "metadata", "store", "safety_identifier", "prompt_cache_key"})
"""They change no answer. The model is the job's; `jobs serve` checks that it is the one asked for."""

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
"""Options that are not supported, with the values that ask for nothing."""


def is_request(line: Mapping[str, Any]) -> bool:
    """Whether a JSON line is a request of this format rather than a plain row."""
    return "custom_id" in line and isinstance(line.get("body"), dict)


def request_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """The row that a request becomes.

    Nothing is dropped in silence: what the system cannot do stays among the sampling values, which refuse
    unknown names, so that the request becomes an error row that names the field.
    """
    body: dict[str, Any] = line["body"]
    chat = "messages" in body
    sampling = {name: value for name, value in body.items() if value is not None and name not in _NO_EFFECT}
    row: dict[str, Any] = {"custom_id": line["custom_id"]}
    if chat:
        row["messages"] = body["messages"]
        sampling.pop("messages", None)
        tools = sampling.pop("tools", None)
        if sampling.get("tool_choice") == "none":
            del sampling["tool_choice"]
        elif tools:
            row["tools"] = tools
    elif "prompt" in body:
        row["prompt"] = only_text(body["prompt"])
        if row["prompt"] is not None:
            del sampling["prompt"]
    if "response_format" in sampling:
        row["response_format"] = sampling.pop("response_format")
    row["sampling_params"] = _sampling(sampling) or None
    return row


def _sampling(given: dict[str, Any]) -> dict[str, Any]:
    """The values under this system's names."""
    values = {name: value for name, value in given.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
    if "max_completion_tokens" in values:
        values["max_tokens"] = values.pop("max_completion_tokens")
    if isinstance(values.get("stop"), str):
        values["stop"] = [values["stop"]]
    if isinstance(values.get("logprobs"), bool) and values.pop("logprobs"):
        values["logprobs"] = values.pop("top_logprobs", 0)
    return values


def only_text(prompt: Any) -> str | None:
    """The text of a prompt, which may be a list of one. None: several prompts, or token ids, are not supported."""
    if isinstance(prompt, list) and len(prompt) == 1:
        [prompt] = prompt
    return prompt if isinstance(prompt, str) else None
