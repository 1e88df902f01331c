"""Reads the form in which a file is uploaded."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from jobs.serve.errors import ApiError
from jobs.serve.guard import Turns
from jobs.serve.models import ExpiresAfter

MAX_NAME_CHARS = 255
_SMALL_BYTES = 256 * 2**10
_MAX_FILES = 2
"""One more than is allowed, so that a second file is refused by its field's name."""

_MAX_FIELDS, _MAX_FIELD_BYTES = 16, 4096
_NESTED = re.compile(r"(\w+)\[(\w+)\]", re.ASCII)
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}
"""Escapes that clients use for these characters in the name of a file."""


class UploadFields(BaseModel):
    """The fields beside the file."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["batch"]
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file and what the form says about it."""

    file: BinaryIO
    filename: str
    fields: UploadFields


FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON lines, a request each."},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": 3600,
                            "maximum": 2_592_000,
                            "description": "Time after which the file is gone. Default: never.",
                        },
                    },
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                }
            }
        },
    }
}
"""The form in the OpenAPI document. This module reads it, because FastAPI would read any number of files."""


@asynccontextmanager
async def read_upload(request: Request, turns: Turns) -> AsyncIterator[Upload]:
    """Read the form; its file exists while the context lasts.

    Args:
        turns: taken by large uploads; small ones, and the first bytes of any, do not wait.

    Raises:
        ApiError, RequestValidationError: the form is not valid.
    """
    async with AsyncExitStack() as stack:
        large = Request(request.scope, _taking_turns(request.receive, turns, stack))
        try:
            form = await large.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
        except ClientDisconnect:
            raise ApiError(400, "The body ended before it was complete.") from None
        stack.push_async_callback(form.close)
        values: dict[str, Any] = {}
        for name, value in form.multi_items():
            _put(values, name, value)
        file = values.pop("file", None)
        if not isinstance(file, UploadFile):
            raise ApiError(400, "The form has no file; send one as multipart/form-data.", param="file")
        try:
            fields = UploadFields.model_validate(values)
        except ValidationError as error:
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None
        yield Upload(file=file.file, filename=_filename(file.filename or "upload.jsonl"), fields=fields)


def _taking_turns(receive: Receive, turns: Turns, stack: AsyncExitStack) -> Receive:
    """Wrap `receive`: pieces beyond the first `_SMALL_BYTES` wait for a turn, which the stack holds."""
    seen_bytes, has_turn = 0, False

    async def receive_in_turn() -> Message:
        nonlocal seen_bytes, has_turn
        if seen_bytes > _SMALL_BYTES and not has_turn:
            await stack.enter_async_context(turns.turn())
            has_turn = True
        message = await receive()
        seen_bytes += len(message.get("body", b""))
        return message

    return receive_in_turn


def _put(values: dict[str, Any], name: str, value: UploadFile | str) -> None:
    """Put a field where its name says: `expires_after[seconds]` is a field of `expires_after`."""
    nested = _NESTED.fullmatch(name)
    place, key = (values.setdefault(nested[1], {}), nested[2]) if nested else (values, name)
    shown = name.encode(errors="replace").decode()[:100]
    if not isinstance(place, dict) or key in place:
        raise ApiError(400, f"The field {shown!r} is given twice.", code="invalid_value", param=shown)
    place[key] = int(value) if nested and isinstance(value, str) and value.isascii() and value.isdecimal() else value


def _filename(given: str) -> str:
    name = re.sub("|".join(_ESCAPES), lambda found: _ESCAPES[found[0]], given).encode(errors="replace").decode()
    if len(name) > MAX_NAME_CHARS:
        raise ApiError(400, f"The file's name is longer than {MAX_NAME_CHARS} characters.", param="file")
    return name
