"""Answers that are asked for again because they are empty or not of the form asked for.

What changes at each try follows from the row and the number of the try alone, so a row has the same fate in every
run: the seed is one higher, and the temperature 0.2, up to 1. The first valid answer is the row's; if none is valid,
the very first one is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from jobs.models.encoding import Encoder
from schemas.codes import RowError
from schemas.records import RowColumn
from schemas.sampling import Sampling
from schemas.spec import JobSpec
from workers.engines.base import Output, RowFailed
from workers.shards.outputs import Row
from workers.shards.result_rows import form_failure, generated_row, json_text

WARMER, WARMEST = 0.2, 1.0
"""What each try adds to the temperature, and where that ends. A job that is warmer stays as warm as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tries:
    """How often one job asks for an answer, and when it is content.

    Attributes:
        more: tries after the first.
    """

    more: int
    is_valid: Callable[[Row, Output], bool]

    @classmethod
    def of(cls, spec: JobSpec, row_columns: Collection[RowColumn], encoder: Encoder) -> Tries:
        """Return the tries of a job.

        Args:
            row_columns: the plan's columns of that name.
        """
        all_json = spec.min_valid_json_rate is not None

        def is_valid(row: Row, output: Output) -> bool:
            answer = generated_row(output, row.sampling, row_columns, encoder)
            if form_failure(answer, output, row.sampling):
                return False
            if row.sampling.wants_json or all_json:
                return json_text(answer["generated_text"], answer["finish_reason"]) is not None
            return bool(answer["generated_text"].strip() or answer.get("tool_calls"))

        return cls(more=spec.retry_invalid, is_valid=is_valid)


def nth_try(sampling: Sampling, number: int) -> Sampling:
    """Return the sampling values of a try; number 0 is the first one."""
    if number == 0:
        return sampling
    temperature = max(sampling.temperature, min(WARMEST, round(sampling.temperature + WARMER * number, 6)))
    return sampling.evolve(temperature=temperature, seed=(sampling.seed or 0) + number)


async def ask_again(ask: Callable[[Row], Awaitable[Output]], row: Row, tries: Tries | None) -> Output:
    """Ask for a row's answer until it is valid or all tries are used up.

    Args:
        ask: asks the engine once.
        tries: None: one try.

    Raises:
        RowFailed: the row cannot be answered. `attempts` says how often the engine was asked.
        EngineDead: as `ask`.
    """
    if tries is None or row.choices:
        return await ask(row)
    first: Output | RowFailed | None = None
    for number in range(tries.more + 1):
        try:
            output = await ask(replace(row, sampling=nth_try(row.sampling, number)))
        except RowFailed as error:
            if error.code != RowError.INVALID_FORM:
                error.attempts = number + 1
                raise
            first = error if first is None else first
            continue
        if tries.is_valid(row, output):
            return replace(output, attempts=number + 1)
        first = output if first is None else first
    assert first is not None, "there is at least one try"
    if isinstance(first, RowFailed):
        first.attempts = tries.more + 1
        raise first
    return replace(first, attempts=tries.more + 1)
