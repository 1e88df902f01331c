"""Masking of secrets in text that is logged or kept."""

from __future__ import annotations

import re
from collections.abc import Mapping

MASK = "***"

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY")
_SECRET = re.compile(
    r"(?i)(secret|token|password|passwd|credential|access_?key|api_?key|authorization)(\W{1,4}(?:bearer\s+)?)\S+"
)
_MIN_SECRET_CHARS = 6


class Masking:
    """Replaces what looks like a secret, and the values of environment variables whose names say that they are one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        values = (value for name, value in environment.items() if _SECRET_NAME.search(name))
        # Longest first: one secret may be part of another.
        self._values = sorted((value for value in values if len(value) >= _MIN_SECRET_CHARS), key=len, reverse=True)

    def masked(self, text: str) -> str:
        """Return the text without the values of secrets."""
        for value in self._values:
            text = text.replace(value, MASK)
        return _SECRET.sub(rf"\1\2{MASK}", text)
