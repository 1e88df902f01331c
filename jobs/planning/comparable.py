"""Earlier jobs whose work was like that of a new one: what its rate and the length of its answers are expected from.

A rate in tokens per second holds for similar work only: reading a token costs an engine far less than writing one, and
long sequences leave room for fewer rows at once. The length of answers holds for the same prompt only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from schemas.spec import JobSpec
from schemas.throughput import Observation

COMPARABLE = 1.0
"""Largest distance of comparable work, in powers of two: rows that read, or write, twice as much."""

LEAST_SPREAD, FALLBACK_SPREAD = 1.2, 2.0
"""Least factor between the expected rate and both ends of its range: from comparable jobs, and from any others. The
errors of earlier predictions widen the first up to the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a job's engines have to do.

    Attributes:
        name: the job's name, which the runs of a schedule and of one dataset share.
        prompt: fingerprint of what is asked of every row; see `prompt_of`.
        num_rows: rows to compute; a sample's are scaled up.
        input_tokens: tokens of these rows to compute, without those that a prefix cache has.
        output_tokens: most tokens that they may generate.
    """

    name: str
    prompt: str
    scores: bool
    has_form: bool
    num_rows: float
    input_tokens: float
    output_tokens: float

    @classmethod
    def of(cls, spec: JobSpec, *, num_rows: float, input_tokens: float, output_tokens: float) -> Self:
        """Describe the work of a job."""
        return cls(
            name=spec.name,
            prompt=prompt_of(spec),
            scores=spec.scores,
            has_form=spec.sampling.structured_outputs is not None,
            num_rows=num_rows,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Computed tokens per second that one replica is expected to reach.

    Attributes:
        low, high: range in which the rate is expected to lie.
        jobs: earlier jobs that it comes from, latest first.
        comparable: whether their work was like this; otherwise they are the nearest, and the range is wide.
    """

    tokens_per_s: float
    low: float
    high: float
    jobs: tuple[str, ...]
    comparable: bool


def prompt_of(spec: JobSpec) -> str:
    """Return a fingerprint of what decides how long the answers are, besides the model and the rows themselves."""
    asked = {
        "task": spec.task,
        "input": spec.input.model_dump(mode="json", exclude={"uri", "keep", "max_row_bytes"}),
        "sampling": spec.sampling.model_dump(
            mode="json", include={"max_tokens", "min_tokens", "stop", "n", "structured_outputs", "ignore_eos"}
        ),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def expected_rate(observations: Sequence[Observation], work: Work) -> Rate | None:
    """Return the rate to expect, from earlier jobs of the model in its setup on one kind of hardware.

    Jobs with comparable work decide, those of the same prompt alone if there are any. Without comparable ones the
    nearest job does, and the range covers all others. None if no job has computed anything.
    """
    share = output_share(observations, work)
    useful = [each for each in reversed(observations) if each.computed_tokens]
    if not useful:
        return None
    distances = {each.job_id: distance(each, work, share) for each in useful}
    near = [each for each in useful if distances[each.job_id] <= COMPARABLE]
    same = [each for each in near if _is_same(each, work)]
    least = min(distances.values())
    chosen = same or near or [each for each in useful if distances[each.job_id] == least]
    likely = sum(each.computed_tokens for each in chosen) / sum(each.engine_s for each in chosen)
    ranging = [likely, *(each.computed_tokens / each.engine_s for each in (chosen if near else useful))]
    # What was predicted of such jobs says how far to trust a prediction; one outlier must not make it worthless.
    errors = [min(each.error, FALLBACK_SPREAD) for each in chosen if each.error is not None]
    spread = max([LEAST_SPREAD, *errors]) if near else FALLBACK_SPREAD
    return Rate(
        tokens_per_s=likely,
        low=min(likely / spread, *ranging),
        high=max(likely * spread, *ranging),
        jobs=tuple(each.job_id for each in chosen),
        comparable=bool(near),
    )


def output_share(observations: Sequence[Observation], work: Work) -> float | None:
    """Return generated tokens as a share of those allowed, in earlier jobs of this name and prompt; None without any.

    Jobs that an older version has recorded without their prompt count where no other does.
    """
    named = [each for each in observations if each.name == work.name and each.allowed_tokens]
    mine = [each for each in named if each.prompt == work.prompt] or [each for each in named if not each.prompt]
    return sum(o.generated_tokens for o in mine) / sum(o.allowed_tokens for o in mine) if mine else None


def distance(earlier: Observation, work: Work, share: float | None) -> float:
    """Return how far the work of a job is from that of an earlier one, in powers of two; infinite if not known.

    Args:
        share: tokens that the job is expected to generate, as a share of those allowed; None if not known: then the
            tokens allowed are compared.
    """
    if not earlier.num_rows or not work.num_rows:
        return math.inf
    read = (earlier.computed_tokens - earlier.generated_tokens) / earlier.num_rows
    written = (earlier.allowed_tokens if share is None else earlier.generated_tokens) / earlier.num_rows
    to_write = work.output_tokens * (1 if share is None else share) / work.num_rows
    apart = max(_apart(read, work.input_tokens / work.num_rows), _apart(written, to_write))
    return apart + (earlier.scores != work.scores) + (earlier.has_form != work.has_form)


def _is_same(earlier: Observation, work: Work) -> bool:
    return (earlier.name, earlier.prompt) == (work.name, work.prompt)


def _apart(one: float, other: float) -> float:
    """Return how many powers of two are between two counts of tokens per row; few tokens are all alike."""
    return abs(math.log2((one + 8) / (other + 8)))
