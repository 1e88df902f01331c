"""Chat messages of rows, checked and normalised."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from jobs.models.errors import EmptyPrompt, InvalidMessages

_NAME = re.compile(r"[\w.-]{1,64}|<\|plugin\|>|<\|interpreter\|>")

_OTHER_PARTS = ("image_url", "image", "input_image", "input_audio", "audio", "file", "video", "video_url", "refusal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()


def parse_messages(messages: Any, roles: Set[str]) -> list[Message]:
    """Check and normalise a conversation.

    A message has a `role` out of `roles` (`developer` is OpenAI's newer word for `system`) and a `content`: a string,
    or a list of `{"type": "text", "text": …}` parts, which are concatenated. `name` (letters, digits, `_`, `.`, `-`;
    at most 64) and, for an assistant, `tool_calls` are optional; an assistant that calls tools needs no
    content. Values of None count as absent, because columns of structs fill missing fields with it; other
    fields are not part of the prompt and are left out.

    Raises:
        EmptyPrompt: no messages, or only blank content.
        InvalidMessages: anything else that breaks these rules. Messages are counted from 1.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidMessages("the conversation is not a list of messages")
    if not messages:
        raise EmptyPrompt("the conversation has no messages")
    parsed = [_parse(number, message, roles) for number, message in enumerate(messages, 1)]
    if not any(message.content.strip() or message.tool_calls for message in parsed):
        raise EmptyPrompt("every message of the conversation is empty")
    return parsed


def _parse(number: int, message: Any, roles: Set[str]) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidMessages(f"message {number} is not an object with role and content")
    role, name, calls = message.get("role"), message.get("name"), message.get("tool_calls")
    if role == "developer" and role not in roles:
        role = "system"
    if not isinstance(role, str) or role not in roles:
        raise InvalidMessages(f"message {number} has a role other than {', '.join(sorted({*roles, 'developer'}))}")
    if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name)):
        raise InvalidMessages(f"message {number} has a name that is not 1 to 64 letters, digits, '_', '.' or '-'")
    if message.get("function_call") is not None:
        raise InvalidMessages(f"message {number} has a function_call; write it as tool_calls")
    if calls is None or (isinstance(calls, Sequence) and not calls):
        return Message(role=role, name=name, content=_content(number, message.get("content")))
    if role != "assistant":
        raise InvalidMessages(f"message {number} has tool_calls, which only an assistant makes")
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise InvalidMessages(f"message {number} has tool_calls that are not a list of objects")
    content = message.get("content")
    text = "" if content is None else _content(number, content)
    return Message(role=role, name=name, content=text, tool_calls=tuple(calls))


def _content(number: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise InvalidMessages(f"message {number} has no content")
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise InvalidMessages(f"message {number} has content that is neither a string nor a list of text parts")
    texts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else None
            what = f"is {kind}, and only text is supported" if kind in _OTHER_PARTS else "is not text"
            raise InvalidMessages(f"message {number} has a content part that {what}")
        texts.append(part["text"])
    return "".join(texts)
