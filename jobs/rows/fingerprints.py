"""Row fingerprints: two rows with the same fingerprint have the same result, in this job or another.

A fingerprint covers everything that a row's result depends on: the model's own fingerprint, engine options that change
its numbers, the task, the token ids (and with them template, system message, tools and chat format), the sampling
values and the columns that the job asks for. It does not cover columns that are only passed through: `custom_id` and
kept columns.

The *open* fingerprint of a greedy answer leaves out what can only end an answer earlier, or have it asked for again:
`max_tokens`, repetition detection and `retry_invalid`. An answer that ended by itself within what another job allows is
that job's answer too: see `jobs.planning.matching`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.records import RowColumn
from schemas.sampling import RepetitionDetection, Sampling
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT

VERSION = 2
"""Version of all fingerprints; incremented when equal fingerprints would no longer mean equal results."""

_FORM_VERSION = 2
"""Version for rows with structured outputs: since 2, a complete answer that violates its form is an error row."""

_SCORE_VERSION = 2
"""Version for rows that are scored: since 2, context and choice are cut at a token boundary of the joined text."""

SIZE_BYTES = FINGERPRINT.type.byte_width

TokenIds = Sequence[int] | npt.NDArray[np.int32]

_NO_LIMIT = -1
"""Stands for `max_tokens` in an open fingerprint."""

_LIMITS = {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization"}
_SPEED_ONLY = {"device", "enforce_eager", "tensor_parallel_size", "speculative_ngram"}
_NEITHER = {"start_timeout_s", "stall_timeout_s", "fake"}
_NOT_THE_RESULT = _LIMITS | _SPEED_ONLY | _NEITHER
"""Engine fields left out of the fingerprint: they affect speed only, apart from the rounding of sums."""


class Prints(NamedTuple):
    """The fingerprints of one row.

    Attributes:
        whole: the fingerprint; None on rows that are not run.
        open: the open fingerprint; None on rows that are not answered greedily.
        former: the fingerprint in versions that knew neither repetition detection nor `retry_invalid`; None if it is
            the same.
        detection: the row's repetition detection as text; None if it has none, or no open fingerprint.
    """

    whole: bytes | None = None
    open: bytes | None = None
    former: bytes | None = None
    detection: str | None = None


NO_PRINTS = Prints()


class RowFingerprints:
    """Fingerprints of one job's rows.

    Args:
        model: fingerprint of the model directory; None for jobs without one.
        row_columns: the plan's `row_columns`.
    """

    def __init__(self, spec: JobSpec, model: str | None, row_columns: Collection[RowColumn]) -> None:
        engine = spec.engine.model_dump(mode="json", exclude=_NOT_THE_RESULT)
        parts = [
            VERSION,
            model or spec.model.path,
            spec.task,
            spec.output_tokens,
            sorted(row_columns),
            sorted(engine.items()),
            spec.sampling.logprobs,
            *([_SCORE_VERSION, spec.token_logprobs] if spec.scores else ()),
        ]
        self._retry_invalid = spec.retry_invalid
        self._job_key = hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()
        self._sampling_keys: dict[int, tuple[Sampling, bytes]] = {}

    def of_prompt(self, token_ids: TokenIds, sampling: Sampling, room_tokens: int) -> Prints:
        """Return the fingerprints of a row to be answered.

        Args:
            room_tokens: most tokens that fit in its answer; `max_tokens` matters only below that.
        """
        limit, key = min(sampling.max_tokens, room_tokens), self._sampling_key(sampling)
        former = self._digest(struct.pack("<q", limit) + key, token_ids)
        more = self._later_values(sampling.repetition_detection, limit)
        whole = self._digest(struct.pack("<q", limit) + key + more, token_ids) if more else former
        if not sampling.deterministic:
            return Prints(whole=whole)
        return Prints(
            whole=whole,
            open=self._digest(struct.pack("<q", _NO_LIMIT) + key, token_ids),
            former=former if more else None,
            detection=None if sampling.repetition_detection is None else str(sampling.repetition_detection),
        )

    def _later_values(self, detection: RepetitionDetection | None, limit_tokens: int) -> bytes:
        """Return what values that older versions did not know add to a fingerprint; nothing if they change nothing."""
        parts: list[object] = []
        # At its last token an answer is cut, not ended: a pattern must fit before it.
        if detection is not None and detection.least_tokens < limit_tokens:
            parts.append(str(detection))
        if self._retry_invalid:
            parts.append(self._retry_invalid)
        return repr(parts).encode() if parts else b""

    def of_choices(self, context: TokenIds, choices: Sequence[Sequence[int]], texts: Sequence[str]) -> bytes:
        """Return the fingerprint of a row whose choices are scored, or whose text is, in parts."""
        parts = [np.asarray(choice, dtype="<i4").tobytes() for choice in choices]
        parts += [text.encode(errors="surrogatepass") for text in texts]
        return self._digest(b"".join(struct.pack("<q", len(part)) + part for part in parts), context)

    def _digest(self, head: bytes, token_ids: TokenIds) -> bytes:
        hasher = hashlib.blake2b(head, digest_size=SIZE_BYTES, key=self._job_key)
        hasher.update(np.asarray(token_ids, dtype="<i4").tobytes())
        return hasher.digest()

    def _sampling_key(self, sampling: Sampling) -> bytes:
        """Digest all values but those that only end an answer. The cache key is identity: rows share few objects."""
        known = self._sampling_keys.get(id(sampling))
        if known is None or known[0] is not sampling:
            values = sampling.model_dump(mode="json", exclude={"max_tokens", "repetition_detection"})
            parts = [*sorted(values.items()), *([_FORM_VERSION] if sampling.structured_outputs else [])]
            known = (sampling, hashlib.blake2b(repr(parts).encode(), digest_size=16).digest())
            if len(self._sampling_keys) >= 1024:
                self._sampling_keys.clear()
            self._sampling_keys[id(sampling)] = known
        return known[1]


def first_of_equal(fingerprints: pa.Array) -> npt.NDArray[np.int64]:
    """Map each row to the first row with the same fingerprint, or to itself if it has none. Shape (rows,)."""
    own = np.arange(len(fingerprints), dtype=np.int64)
    if not len(fingerprints):
        return own
    codes = fingerprints.dictionary_encode().indices
    known = codes.is_valid().to_numpy(zero_copy_only=False)
    codes = codes.fill_null(0).to_numpy(zero_copy_only=False)
    first = np.empty(int(codes.max()) + 1, dtype=np.int64)
    first[codes[known][::-1]] = own[known][::-1]  # the last assignment wins: the first row's
    return np.where(known, first[codes], own)
