"""What a job is expected to do follows from earlier jobs whose work was like its own, not from any other."""

from __future__ import annotations

from itertools import product

import pytest

from jobs.planning.comparable import Work, expected_rate, output_share, prompt_of
from jobs.spec.build import build_spec
from schemas.spec import JobSpec
from schemas.throughput import Observation

READ_S, WRITE_S = 1e-5, 2e-4
"""Seconds of an engine for a token that it reads, and for one that it writes."""

SHAPES = [(60, 20), (60, 800), (2_000, 20), (2_000, 800), (300, 150)]
"""Tokens that a row reads and writes, on average."""


def work_of(shape: tuple[int, int], *, name: str = "n", prompt: str = "p", rows: int = 500, allowed: int = 0) -> Work:
    read, written = shape
    output = rows * (allowed or written)
    return Work(
        name=name,
        prompt=prompt,
        scores=False,
        has_form=False,
        num_rows=rows,
        input_tokens=rows * read,
        output_tokens=output,
    )


def engine_s(shape: tuple[int, int], rows: int) -> float:
    read, written = shape
    return rows * (read * READ_S + written * WRITE_S)


def seen(job_id: str, shape: tuple[int, int], *, name: str = "n", prompt: str = "p", rows: int = 1_000) -> Observation:
    read, written = shape
    return Observation(
        job_id=job_id,
        name=name,
        at="2026-03-01",
        start_s=1.0,
        engine_s=engine_s(shape, rows),
        computed_tokens=rows * (read + written),
        generated_tokens=rows * written,
        allowed_tokens=rows * written,
        num_rows=rows,
        prompt=prompt,
    )


EARLIER = [seen(f"{read}-{written}", (read, written), name="other") for read, written in SHAPES]


@pytest.mark.parametrize(("shape", "stretch"), list(product(SHAPES, [0.7, 1.0, 1.4])))
def test_similar_work_predicts_better_than_all_work(shape: tuple[int, int], stretch: float) -> None:
    read, written = shape
    new = (round(read * stretch), round(written * stretch))
    rate = expected_rate(EARLIER, work_of(new))
    assert rate is not None
    assert (rate.jobs, rate.comparable) == ((f"{read}-{written}",), True)
    truth = sum(new) * 500 / engine_s(new, 500)
    pooled = sum(o.computed_tokens for o in EARLIER) / sum(o.engine_s for o in EARLIER)
    assert abs(rate.tokens_per_s / truth - 1) <= 0.1
    assert abs(rate.tokens_per_s / truth - 1) < abs(pooled / truth - 1)
    assert rate.low <= truth <= rate.high


def test_without_similar_work_the_nearest_tells_with_a_wide_range() -> None:
    long = (12_000, 30)
    rate = expected_rate(EARLIER, work_of(long))
    assert rate is not None
    assert (rate.jobs, rate.comparable) == (("2000-20",), False)
    assert rate.high / rate.low >= 4
    assert rate.low <= sum(long) * 500 / engine_s(long, 500) <= rate.high


def test_the_same_prompt_decides_before_others_of_its_size() -> None:
    slow = seen("mine", (60, 20)).evolve(engine_s=10 * engine_s((60, 20), 1_000))
    rate = expected_rate([slow, *EARLIER], work_of((60, 20)))
    assert rate is not None
    assert rate.jobs == ("mine",)
    # Of the same prompt, but of rows of another size: it says nothing about this job's speed.
    other = expected_rate([slow, *EARLIER], work_of((2_000, 20)))
    assert other is not None
    assert other.jobs == ("2000-20",)


def test_another_task_or_form_is_other_work() -> None:
    scored = [seen("scored", (300, 150)).evolve(scores=True, engine_s=1.0)]
    rate = expected_rate([*EARLIER, *scored], work_of((330, 160)))
    assert rate is not None
    assert rate.jobs == ("300-150",)


def test_answers_are_as_long_as_those_of_the_same_prompt() -> None:
    short = seen("short", (60, 20)).evolve(allowed_tokens=100_000)
    assert output_share([short], work_of((60, 100))) == 0.2
    assert output_share([short], work_of((60, 100), prompt="another")) is None
    assert output_share([short], work_of((60, 100), name="another")) is None
    # An older version recorded no prompts; what is known of this one comes first.
    older = short.evolve(prompt="", generated_tokens=50_000)
    assert output_share([older], work_of((60, 100))) == 0.5
    assert output_share([older, short], work_of((60, 100))) == 0.2
    # Then lengths are compared with what the answers will have.
    rate = expected_rate([short, *EARLIER], work_of((60, 100)))
    assert rate is not None
    assert (rate.jobs, rate.comparable) == (("short",), True)


def test_jobs_that_computed_nothing_tell_no_rate() -> None:
    assert expected_rate([], work_of((60, 20))) is None
    assert expected_rate([seen("a", (60, 20)).evolve(computed_tokens=0)], work_of((60, 20))) is None


def spec_of(**options: object) -> JobSpec:
    return build_spec("/d.parquet", {"engine.name": "fake", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"input.template": "Translate: {{ text }}"},
        {"input.system": "Answer with one word."},
        {"input.chat": False},
        {"sampling.max_tokens": 32},
        {"sampling.structured_outputs": {"regex": "a+"}},
        {"task": "score"},
    ],
)
def test_what_is_asked_of_every_row_makes_another_prompt(options: dict[str, object]) -> None:
    assert prompt_of(spec_of(**options)) != prompt_of(spec_of())
    assert prompt_of(spec_of(**options, replicas="4", **{"input.keep": ["a"], "name": "x"})) == prompt_of(
        spec_of(**options)
    )
