"""Base class of every document that is written to the object store."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A frozen JSON document with one canonical byte form.

    Unknown fields are refused: a misspelt option must not be ignored in silence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def to_json(self) -> bytes:
        """Canonical bytes: sorted keys, UTF-8, a final newline. Equal documents give equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse and validate.

        Raises:
            pydantic.ValidationError: not this document, or written by an incompatible version.
        """
        return cls.model_validate_json(data)

    def digest(self) -> str:
        """Hex SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def evolve(self, **changes: Any) -> Self:
        """A validated copy with the given fields replaced."""
        return type(self).model_validate({**dict(self), **changes})
