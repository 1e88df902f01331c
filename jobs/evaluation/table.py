"""The table of an evaluation, as rows for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.evaluations import Scores

COLUMNS = {
    "benchmark": "benchmark",
    "metric": "metric",
    "score": "this run",
    "card": "card",
    "difference": "difference",
    "of_subjects": "mean of subjects",
    "of_rows": "mean of rows",
    "rows": "rows",
    "not_extracted": "not extracted",
    "errors": "errors",
}
SUBJECT_COLUMNS = {
    "benchmark": "benchmark",
    "subject": "subject",
    "score": "this run",
    "rows": "rows",
    "right": "right",
    "not_extracted": "not extracted",
    "errors": "errors",
}


def rows_of(scores: Scores) -> list[dict[str, str]]:
    """Return one row for each benchmark, with numbers as people read them: percent with two digits."""
    return [
        {
            "benchmark": each.title,
            "metric": each.metric,
            "score": f"{each.score:.2f}",
            "card": f"{each.card:.2f}",
            "difference": f"{each.difference:+.2f}",
            "of_subjects": f"{each.mean_of_subjects:.2f}",
            "of_rows": f"{each.mean_of_rows:.2f}",
            "rows": f"{each.rows:,}",
            "not_extracted": f"{each.not_extracted:,}",
            "errors": f"{each.errors:,}",
        }
        for each in scores.benchmarks
    ]


def subject_rows_of(scores: Scores) -> list[dict[str, str]]:
    """Return one row for each subject of the benchmarks that have several."""
    return [
        {
            "benchmark": benchmark.title,
            "subject": each.subject,
            "score": f"{each.score:.2f}",
            "rows": f"{each.rows:,}",
            "right": f"{each.right:,}",
            "not_extracted": f"{each.not_extracted:,}",
            "errors": f"{each.errors:,}",
        }
        for benchmark in scores.benchmarks
        if len(benchmark.subjects) > 1
        for each in benchmark.subjects
    ]


def as_json(scores: Scores) -> Mapping[str, Any]:
    """Return the stored table, with the differences from the card and the subjects' scores written out."""
    values = scores.model_dump(mode="json")
    for written, each in zip(values["benchmarks"], scores.benchmarks, strict=True):
        written["difference"] = each.difference
        for subject, of in zip(written["subjects"], each.subjects, strict=True):
            subject["score"] = of.score
    return values
