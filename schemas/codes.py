"""Codes of error rows and of failed jobs. Stable: users match on them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class RowError(StrEnum):
    """Why one row has no result (`error_code`)."""

    EMPTY_PROMPT = "EMPTY_PROMPT"
    INVALID_MESSAGES = "INVALID_MESSAGES"
    INVALID_TEXT = "INVALID_TEXT"
    INVALID_SAMPLING = "INVALID_SAMPLING"
    INVALID_CHOICES = "INVALID_CHOICES"
    CHOICE_BOUNDARY = "CHOICE_BOUNDARY"
    TEMPLATE_ERROR = "TEMPLATE_ERROR"
    ROW_TOO_LARGE = "ROW_TOO_LARGE"
    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    INVALID_FORM = "INVALID_FORM"
    ENGINE_ERROR = "ENGINE_ERROR"
    ENGINE_CRASH = "ENGINE_CRASH"
    TIMEOUT = "TIMEOUT"
    TIME_LIMIT = "TIME_LIMIT"
    BUDGET = "BUDGET"


AT_LIMIT = frozenset({RowError.TIME_LIMIT, RowError.BUDGET})
"""Codes of rows that no engine has been asked for, because the job had reached a limit."""


class JobError(StrEnum):
    """Why a job FAILED (`code` of the terminal record)."""

    INVALID_INPUT = "INVALID_INPUT"
    INPUT_CHANGED = "INPUT_CHANGED"
    INVALID_MODEL = "INVALID_MODEL"
    MODEL_CHANGED = "MODEL_CHANGED"
    INVALID_CLUSTER = "INVALID_CLUSTER"
    STAGING_FAILED = "STAGING_FAILED"
    ENGINE_START_FAILED = "ENGINE_START_FAILED"
    ENGINE_DIED = "ENGINE_DIED"
    SHARD_FAILED = "SHARD_FAILED"


class InterruptionCode(StrEnum):
    """Why a driver ended before its job did. Each of these can come back: the job goes on with `jobs resume`.

    After PAUSED, TIME_LIMIT and BUDGET only a person resumes it.
    """

    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    INPUT_UNAVAILABLE = "INPUT_UNAVAILABLE"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    INVALID_CLUSTER = "INVALID_CLUSTER"
    ENGINE_START_FAILED = "ENGINE_START_FAILED"
    ENGINE_DIED = "ENGINE_DIED"
    OUT_OF_RESOURCES = "OUT_OF_RESOURCES"
    DAMAGED = "DAMAGED"
    STOPPED = "STOPPED"
    PAUSED = "PAUSED"
    TIME_LIMIT = "TIME_LIMIT"
    BUDGET = "BUDGET"
    POOL_UNAVAILABLE = "POOL_UNAVAILABLE"
    POOL_MISMATCH = "POOL_MISMATCH"
    DRIVER_NOT_STARTED = "DRIVER_NOT_STARTED"
    DRIVER_LOST = "DRIVER_LOST"
    UNEXPECTED = "UNEXPECTED"


HELD = frozenset({InterruptionCode.PAUSED, InterruptionCode.TIME_LIMIT, InterruptionCode.BUDGET})
"""Interruptions after which only a person resumes the job."""


class State(StrEnum):
    """State of a job, derived from the ledger.

    PAUSED: a person has paused it, and nobody but a person resumes it.
    GATE_FAILED: every row has its result, but the results cross a quality gate. Its terminal record is `Succeeded`,
    as that of SUCCEEDED.
    """

    QUEUED = "QUEUED"
    PLANNING = "PLANNING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    INTERRUPTED = "INTERRUPTED"
    SUCCEEDED = "SUCCEEDED"
    GATE_FAILED = "GATE_FAILED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ENDED = frozenset({State.SUCCEEDED, State.GATE_FAILED, State.FAILED, State.CANCELLED})
"""States of a job that has a terminal record."""

COMPLETE = frozenset({State.SUCCEEDED, State.GATE_FAILED})
"""States of a job that has a result for every row."""

BatchEnd = Literal["completed", "failed", "expired", "cancelled"]
"""The last statuses of a batch of `jobs serve`."""
