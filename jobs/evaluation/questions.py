"""Questions: what a reader makes of a data set's row, whatever its layout was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALL = "all"
"""The one subject of a data set without subjects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a data set.

    Attributes:
        number: its 0-based position among those of its subject.
        fields: what templates may name, in the order in which it is put in.
        answer: name of the field that holds the answer.
        reference: the right answer; None if the data set's own row has none, which no answer equals.
        before, after: for a question that is answered by a program: what surrounds the answer in it.
    """

    subject: str
    number: int
    fields: Mapping[str, str]
    answer: str
    reference: str | None
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One file that was read.

    Attributes:
        sha256: hex digest of its bytes.
    """

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """The questions of one benchmark.

    Attributes:
        questions: subject by subject, in file order.
        shots: solved questions of each subject, in file order.
        files: what was read.
    """

    questions: Sequence[Question]
    shots: Mapping[str, Sequence[Question]] = field(default_factory=dict)
    files: Sequence[DataFile] = ()
