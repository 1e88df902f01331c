"""What a result object's metadata says of its shard: who wrote it, how many rows and tokens, its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas import FORMAT_VERSION, keys
from schemas.records import ShardCommit


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardStats:
    """What a result object's metadata tells without reading it.

    Attributes:
        error_codes: the error rows by their code.
    """

    num_rows: int
    num_error_rows: int
    num_input_tokens: int
    num_generated_tokens: int
    sha256: str
    num_length_rows: int = 0
    num_repetition_rows: int = 0
    num_empty_rows: int = 0
    num_valid_json_rows: int = 0
    num_json_rows: int = 0
    num_not_json_rows: int = 0
    error_codes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        data: bytes,
        *,
        rows: int,
        error_codes: Mapping[str, int],
        input_tokens: int,
        generated_tokens: int,
        cut: int = 0,
        looped: int = 0,
        empty: int = 0,
        valid_json: int = 0,
        json: int = 0,
        not_json: int = 0,
    ) -> ShardStats:
        """Statistics of encoded result bytes."""
        return cls(
            num_rows=rows,
            num_error_rows=sum(error_codes.values()),
            error_codes=error_codes,
            num_length_rows=cut,
            num_repetition_rows=looped,
            num_empty_rows=empty,
            num_valid_json_rows=valid_json,
            num_json_rows=json,
            num_not_json_rows=not_json,
            num_input_tokens=input_tokens,
            num_generated_tokens=generated_tokens,
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def to_metadata(self, attempt_id: str) -> dict[str, str]:
        """Object metadata: lower-case keys and ASCII values, as S3 wants them."""
        codes = ",".join(f"{code}={count}" for code, count in sorted(self.error_codes.items()))
        return {
            "attempt-id": attempt_id,
            "format-version": str(FORMAT_VERSION),
            "rows": str(self.num_rows),
            "error-rows": str(self.num_error_rows),
            "length-rows": str(self.num_length_rows),
            **({"repetition-rows": str(self.num_repetition_rows)} if self.num_repetition_rows else {}),
            "empty-rows": str(self.num_empty_rows),
            "valid-json-rows": str(self.num_valid_json_rows),
            "json-rows": str(self.num_json_rows),
            "not-json-rows": str(self.num_not_json_rows),
            **({"error-codes": codes} if codes else {}),
            "input-tokens": str(self.num_input_tokens),
            "generated-tokens": str(self.num_generated_tokens),
            "sha256": self.sha256,
        }


def commit_of(shard: int, metadata: Mapping[str, str], size_bytes: int, key: str | None = None) -> ShardCommit:
    """Read the commit record that `ShardStats.to_metadata` has put on a result object, or on one of the same form.

    Args:
        metadata, size_bytes: of that object.
        key: of that object in the job directory; default: that of the shard's result.

    Raises:
        KeyError, ValueError: the object's metadata is not ours.
    """
    return ShardCommit(
        index=shard,
        key=keys.result(shard) if key is None else key,
        num_rows=int(metadata["rows"]),
        num_error_rows=int(metadata["error-rows"]),
        # Older versions did not count these.
        num_length_rows=int(metadata.get("length-rows", 0)),
        num_repetition_rows=int(metadata.get("repetition-rows", 0)),
        num_empty_rows=int(metadata.get("empty-rows", 0)),
        num_valid_json_rows=int(metadata.get("valid-json-rows", 0)),
        num_json_rows=int(metadata.get("json-rows", 0)),
        num_not_json_rows=int(metadata.get("not-json-rows", 0)),
        error_codes=_error_codes(metadata.get("error-codes", "")),
        num_input_tokens=int(metadata["input-tokens"]),
        num_generated_tokens=int(metadata["generated-tokens"]),
        size_bytes=size_bytes,
        sha256=metadata["sha256"],
        attempt_id=metadata["attempt-id"],
    )


def _error_codes(text: str) -> dict[str, int]:
    """From `EMPTY_PROMPT=3,ENGINE_ERROR=1`."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {code: int(count) for code, _, count in pairs}
