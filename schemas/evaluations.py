"""What evaluations keep in the object store, beside the job directories. Other tools skip names that start with `_`.

    _evaluations/<id>/evaluation.json    write-once: what is measured, of which model, and which jobs compute it
    _evaluations/<id>/programs.parquet   write-once: how programs that the model wrote have run
    _evaluations/<id>/verdicts.parquet   write-once: each row's answer, and whether it is right
    _evaluations/<id>/scores.json        write-once: the table

Prompts and outputs are those of the jobs: `_inputs/…` and `<job id>/results/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa
from pydantic import AwareDatetime, Field

from schemas import FORMAT_VERSION
from schemas.base import Document

EVALUATIONS = "_evaluations/"
PROGRAM_MARK = "nightbatch-programs: "
"""Begins the line in which the process that runs programs reports to the client: a `ProgramsReport` as JSON."""

Task = Literal["score", "generate"]
Outcome = Literal["passed", "failed", "timeout", "killed"]
"""How a program has ended: `killed` by a limit on memory, files or time of the processor, or by a signal of its own."""


def evaluation_key(evaluation_id: str, name: str) -> str:
    """The key of one of an evaluation's objects, under the root of all jobs."""
    return f"{EVALUATIONS}{evaluation_id}/{name}"


class DataIdentity(Document):
    """A file of a data set that was read."""

    path: str
    sha256: str


class BenchmarkRun(Document):
    """One benchmark of an evaluation."""

    name: str
    hash: str = Field(description="SHA-256 of its prompts, shots, rules and averages.")
    rows: int
    files: tuple[DataIdentity, ...]


class Evaluation(Document):
    """What is measured, of which model, and which jobs compute it."""

    format_version: int = FORMAT_VERSION
    evaluation_id: str
    suite: str
    suite_hash: str
    benchmarks: tuple[BenchmarkRun, ...]
    limit: int | None = Field(None, description="Rows of each subject at most.")
    model: str
    jobs: Mapping[Task, str] = Field(description="Job id by task.")
    created_at: AwareDatetime

    def same_as(self, other: Evaluation) -> bool:
        """Whether both measure the same, whenever they were made."""
        return self.evolve(created_at=other.created_at) == other


class SubjectScore(Document):
    """The rows of one subject.

    Attributes:
        not_extracted: rows with an answer in none of the forms that the rule looks for.
        errors: rows without an output; they count as wrong, as those not extracted may.
    """

    subject: str
    rows: int
    right: int
    not_extracted: int
    errors: int

    @property
    def score(self) -> float:
        """Share of right rows, in percent."""
        return 100 * self.right / self.rows if self.rows else 0.0


class BenchmarkScore(Document):
    """One line of the table. Scores are in percent."""

    name: str
    title: str
    metric: str
    hash: str
    average: Literal["subjects", "rows"] = Field(description="Which of the two means is the benchmark's score.")
    score: float
    mean_of_subjects: float
    mean_of_rows: float
    card: float
    card_rows: int
    rows: int
    right: int
    not_extracted: int
    errors: int
    subjects: tuple[SubjectScore, ...]

    @property
    def difference(self) -> float:
        """This run's score less the card's."""
        return self.score - self.card

    @property
    def is_whole(self) -> bool:
        """Whether this run has as many rows as the card's value."""
        return self.rows == self.card_rows


class Scores(Document):
    """The table."""

    format_version: int = FORMAT_VERSION
    evaluation_id: str
    suite: str
    suite_hash: str
    model: str
    model_fingerprint: str | None
    benchmarks: tuple[BenchmarkScore, ...]
    sandboxed: bool | None = Field(None, description="Whether programs ran in a sandbox; null if there were none.")
    finished_at: AwareDatetime


class ProgramsReport(Document):
    """What the process that runs programs says at its end."""

    programs: int = 0
    passed: int = 0
    sandboxed: bool = True
    error: str = ""
    hint: str = ""


VERDICTS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("custom_id", pa.string()),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("extracted", pa.bool_(), nullable=False),
        pa.field("right", pa.bool_(), nullable=False),
        pa.field("error_code", pa.string()),
    ]
)
"""Columns of `verdicts.parquet`. `row_id` is that of the job of this task; `answer` is what the rule found."""

PROGRAMS = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("custom_id", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("sandboxed", pa.bool_(), nullable=False),
    ]
)
"""Columns of `programs.parquet`: an `Outcome`, the exception that a program has failed with, and whether it ran in a
sandbox."""
