"""Preparing an evaluation: from a suite and a data directory to the rows of its jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.errors import InvalidInput
from jobs.evaluation.exemplars import read_exemplars
from jobs.evaluation.layouts import READERS
from jobs.evaluation.questions import ALL, DataSet, Question
from jobs.evaluation.rendering import CHAT_SCHEMA, PROMPT_SCHEMA, SCORE_SCHEMA, render_row
from jobs.evaluation.suites import Benchmark, Suite
from schemas.evaluations import BenchmarkRun, DataIdentity, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The rows of an evaluation's jobs.

    Attributes:
        tables: rows by task; a task without rows is not there.
        benchmarks: what was read for each benchmark.
    """

    tables: Mapping[Task, pa.Table]
    benchmarks: Sequence[BenchmarkRun]


def prepare(suite: Suite, data: Path, *, exemplars: Path | None = None, limit: int | None = None) -> Prepared:
    """Read the data of all benchmarks and render their rows, in the order of the suite.

    Args:
        exemplars: see `read_exemplars`.
        limit: rows of each subject at most, the first ones.

    Raises:
        InvalidInput: data is missing or in an unknown layout; the error names it.
    """
    if not data.is_dir():
        raise InvalidInput(f"There is no directory {data}.", "Give the directory of the benchmarks' data with --data.")
    rows: dict[Task, list[dict[str, object]]] = {"score": [], "generate": []}
    runs = []
    for benchmark in suite.benchmarks:
        found = READERS[benchmark.data](data)
        texts = read_exemplars(benchmark.exemplars, data, exemplars) if benchmark.exemplars else {}
        asked = _limited(found.questions, limit)
        rows[benchmark.task] += [
            render_row(benchmark, each, _shots(benchmark, found, each), texts.get(each.subject, texts.get(ALL, "")))
            for each in asked
        ]
        files = tuple(DataIdentity(path=file.path, sha256=file.sha256) for file in found.files)
        runs.append(BenchmarkRun(name=benchmark.name, hash=benchmark.hash, rows=len(asked), files=files))
    chat = any(benchmark.chat for benchmark in suite.benchmarks)
    schemas: dict[Task, pa.Schema] = {"score": SCORE_SCHEMA, "generate": CHAT_SCHEMA if chat else PROMPT_SCHEMA}
    tables = {task: pa.Table.from_pylist(each, schema=schemas[task]) for task, each in rows.items() if each}
    return Prepared(tables=tables, benchmarks=runs)


def _limited(questions: Sequence[Question], limit: int | None) -> Sequence[Question]:
    if limit is None:
        return questions
    seen: Counter[str] = Counter()
    kept = []
    for question in questions:
        seen[question.subject] += 1
        if seen[question.subject] <= limit:
            kept.append(question)
    return kept


def _shots(benchmark: Benchmark, data: DataSet, question: Question) -> Sequence[Question]:
    return data.shots[question.subject][: benchmark.shots] if benchmark.shots else ()
