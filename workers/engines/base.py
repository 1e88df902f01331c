"""The interface of engines: token ids in, tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.codes import RowError
from schemas.sampling import Sampling


class EngineDead(Exception):
    """The engine has died and takes every row in flight with it; only a new process helps."""


class EngineStalled(EngineDead):
    """The engine computes nothing though rows are in it; only a new process helps."""


class RowFailed(Exception):
    """One row cannot be answered; the engine goes on.

    Args:
        code: the row's `error_code`.
        message: why, without a word of the prompt.
    """

    attempts = 1
    """How often the engine was asked."""

    def __init__(self, code: RowError, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One generated sequence.

    Attributes:
        text: the text, or None where the caller is to decode `token_ids`.
        logprobs: per token (token id, logprob, likeliest alternatives as (token id, logprob)).
    """

    token_ids: Sequence[int]
    finish_reason: str
    text: str | None = None
    cumulative_logprob: float | None = None
    logprobs: Sequence[tuple[int, float, Sequence[tuple[int, float]]]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceScore:
    """Log-likelihood of one choice after its context.

    Attributes:
        logprobs: natural log-probability of each of its tokens.
        is_greedy: whether each token is the likeliest at its place; of several that are equally likely, each is.
    """

    logprobs: Sequence[float]
    is_greedy: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of the choice."""
        return len(self.logprobs)

    @property
    def sum_logprob(self) -> float:
        """Sum of its tokens' log-probabilities."""
        return sum(self.logprobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """An engine's whole output for one row.

    Attributes:
        scores: one for each choice, if the row was scored; then there are no completions.
        num_cached_tokens: input tokens found in the prefix cache instead of computed.
        attempts: how often the engine was asked for this answer: more than once if earlier ones were invalid.
    """

    completions: Sequence[Completion] = ()
    scores: Sequence[ChoiceScore] = ()
    num_cached_tokens: int = 0
    attempts: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """Limits that an engine has resolved; logged and kept in the attempt's statistics.

    Attributes:
        max_num_seqs: most sequences that it decodes at once.
        kv_tokens: capacity of its KV cache in tokens; None if unbounded.
        kv_block_tokens: tokens of the cache that a sequence takes at a time.
        device: hardware that it computes on, for people and for comparing speeds.
        details: further resolved values by name.
    """

    max_num_seqs: int
    max_model_len: int
    kv_tokens: int | None = None
    kv_block_tokens: int = 1
    device: str = "unknown"
    details: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """One model copy. Methods are called from one event loop.

    Its outputs and errors are checked (`workers.shards.outputs`): an engine that errs costs rows, not shards.
    """

    @property
    def steps(self) -> int:
        """Counter that grows while the engine computes: a sign of life while no row ends."""

    @property
    def waiting(self) -> int:
        """Rows inside the engine that it does not compute yet."""

    async def start(self) -> EngineInfo:
        """Load the model. May take minutes.

        Raises:
            Exception: it cannot start; the message says why.
        """

    async def generate(
        self, request_id: str, token_ids: Sequence[int], sampling: Sampling, salt: str | None = None
    ) -> Output:
        """Answer one row. `request_id` is unique within the engine's life.

        Args:
            salt: only rows of the same salt find the row's prefix in the cache.

        Raises:
            RowFailed: this row cannot be answered.
            EngineDead: no row can be answered any more.
        """

    async def score(
        self, request_id: str, context: Sequence[int], choices: Sequence[Sequence[int]], salt: str | None = None
    ) -> Output:
        """Score each choice as the continuation of the context, which is computed once. No choice is empty.

        Raises:
            RowFailed, EngineDead: as `generate`.
        """

    async def stop(self) -> None:
        """Free the device and end every process of the engine."""
