"""Judging: from the results of an evaluation's jobs to a verdict on each row, and from these to scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from jobs.evaluation.extraction import Found, extract, is_right
from jobs.evaluation.suites import Benchmark, Suite
from schemas.evaluations import VERDICTS, BenchmarkScore, SubjectScore, Task

_COMMON = ("row_id", "custom_id", "benchmark", "subject", "reference", "error_code")
COLUMNS: Mapping[Task, tuple[str, ...]] = {
    "score": (*_COMMON, "best_choice"),
    "generate": (*_COMMON, "generated_text", "after"),
}
"""The columns of a job's results that judging needs."""

_LETTERS = "ABCD"


def judge(suite: Suite, task: Task, results: Iterable[pa.Table], passed: Mapping[int, bool]) -> pa.Table:
    """Return a verdict on each row of a job's results, in their order; the schema is `VERDICTS`.

    Args:
        results: tables with the columns of `COLUMNS`.
        passed: for each row that is answered by a program, whether that has passed its tests.
    """
    benchmarks = {each.name: each for each in suite.benchmarks}
    rows = [_verdict(benchmarks[row["benchmark"]], task, row, passed) for table in results for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=VERDICTS)


def _verdict(benchmark: Benchmark, task: Task, row: Mapping[str, Any], passed: Mapping[int, bool]) -> dict[str, Any]:
    rule = benchmark.rule_for(row["subject"])
    if row["error_code"] is not None:
        found, right = Found("", False), False
    elif task == "score":
        found = Found(_LETTERS[row["best_choice"]], True)
        right = found.answer == row["reference"]
    else:
        found = extract(rule, row["generated_text"])
        right = passed[row["row_id"]] if row["after"] is not None else is_right(rule, found, row["reference"])
    return {
        "task": task,
        **{name: row[name] for name in ("row_id", "custom_id", "benchmark", "subject", "reference", "error_code")},
        "answer": None if row["error_code"] is not None else found.answer,
        "extracted": found.certain,
        "right": right,
    }


def scores_of(suite: Suite, verdicts: pa.Table) -> tuple[BenchmarkScore, ...]:
    """Return the score of each benchmark that has rows, in the order of the suite."""
    return tuple(_scores(suite, verdicts))


def _scores(suite: Suite, verdicts: pa.Table) -> Iterator[BenchmarkScore]:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for row in verdicts.select(["benchmark", "subject", "right", "extracted", "error_code"]).to_pylist():
        count = counts.setdefault((row["benchmark"], row["subject"]), Counter())
        failed = row["error_code"] is not None
        count.update(rows=1, right=row["right"], errors=failed, not_extracted=not row["extracted"] and not failed)
    for benchmark in suite.benchmarks:
        subjects = tuple(
            SubjectScore(
                subject=subject,
                rows=count["rows"],
                right=count["right"],
                not_extracted=count["not_extracted"],
                errors=count["errors"],
            )
            for (name, subject), count in counts.items()
            if name == benchmark.name
        )
        if subjects:
            yield _score(benchmark, subjects)


def _score(benchmark: Benchmark, subjects: tuple[SubjectScore, ...]) -> BenchmarkScore:
    rows, right = sum(each.rows for each in subjects), sum(each.right for each in subjects)
    of_subjects = sum(each.score for each in subjects) / len(subjects)
    of_rows = 100 * right / rows
    return BenchmarkScore(
        name=benchmark.name,
        title=benchmark.title,
        metric=benchmark.metric,
        hash=benchmark.hash,
        average=benchmark.average,
        score=of_subjects if benchmark.average == "subjects" else of_rows,
        mean_of_subjects=of_subjects,
        mean_of_rows=of_rows,
        card=benchmark.card,
        card_rows=benchmark.rows,
        rows=rows,
        right=right,
        not_extracted=sum(each.not_extracted for each in subjects),
        errors=sum(each.errors for each in subjects),
        subjects=subjects,
    )
