"""Reading documents from the store. Damaged documents and those of a newer version give different errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from jobs.errors import Damaged, UsageError
from jobs.validation import problem
from schemas import FORMAT_VERSION

_T = TypeVar("_T")


def read_document(data: bytes, where: str, parse: Callable[[bytes], _T], remedy: str = "") -> _T:
    """Parse a document's bytes.

    Args:
        where: address of the document.
        remedy: what to do if the document is damaged; default: restore it.

    Raises:
        Damaged: the document is not what was written there.
        UsageError: a newer version wrote it.
    """
    remedy = remedy or "Restore it from a backup, or from an earlier version of the object if the bucket keeps some."
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged(f"{where} is damaged: {_bytes(data)}.", remedy) from None
    if not isinstance(document, dict):
        raise Damaged(f"{where} is damaged: it holds no JSON object.", remedy)
    version = document.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        # Checked first: a newer document may have fields that this version rejects as unknown.
        raise _newer(where, f"its format_version {version} is newer than {FORMAT_VERSION}")
    try:
        return parse(data)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        if unknown := [each for each in errors if each["type"] != "extra_forbidden"]:
            first = unknown[0]
            # Never quote a mapping's key or a value: they may come from a row.
            field = next((str(part) for part in first["loc"] if isinstance(part, str)), "")
            what = problem([first]).what
            said = f"{field}: {what}" if field else what
            raise Damaged(f"{where} is damaged: {said}.", remedy) from None
        raise _newer(where, f"this version does not know its field {errors[0]['loc'][-1]!r}") from None


def _newer(where: str, reason: str) -> UsageError:
    return UsageError(
        f"{where} cannot be read by this version: {reason}.", "Upgrade nightbatch, or use the version that wrote it."
    )


def _bytes(data: bytes) -> str:
    return f"its {len(data):,} bytes are not JSON" if data.strip() else "it is empty"
