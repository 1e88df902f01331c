"""Where the results of a job go besides its directory, and what is written down about it.

    _job/exports/<id>/outcome.json    write-once: the results are there
    _job/exports/<id>/failure.json    overwritten: why the last try has failed; advisory

`<id>` follows from the target and the choice of rows alone: one job exports one choice of rows to a target once.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.options import Option, Panel

JOB_COLUMN = "job_id"
"""Column of a table that says which job each row comes from: by it, a job's rows are found and never appended twice.
It lasts as long as the rows do; the properties of a table's snapshots expire."""

Rows = Literal["all", "ok", "error"]
"""Choice of a job's rows by their status."""

Errors = Literal["keep", "drop", "apart"]
NewColumns = Literal["refuse", "add"]


class ExportSpec(Document):
    """Where the results of a job go when it has succeeded."""

    targets: Annotated[tuple[str, ...], Option(panel=Panel.EXPORT, name="export")] = Field(
        (),
        description="Also write the results there once the job has succeeded: a file, s3://…, a directory with "
        "--partition-by, delta:PATH or iceberg:CATALOG.NAMESPACE.TABLE; may be repeated.",
    )
    partition_by: Annotated[tuple[str, ...], Option(panel=Panel.EXPORT, form="names")] = Field(
        (), description="Columns whose values name the folders of a directory, or the partitions of a new table: a,b."
    )
    errors: Annotated[Errors, Option(panel=Panel.EXPORT, name="export_errors")] = Field(
        "keep", description="Error rows: keep them, drop them, or write them apart, beside the target."
    )
    new_columns: Annotated[NewColumns, Option(panel=Panel.EXPORT, name="export_new_columns")] = Field(
        "refuse", description="Columns that a table lacks: refuse the export, or add them to the table."
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_many(cls, targets: Any) -> Any:
        return (targets,) if isinstance(targets, str) else targets


class Export(Document):
    """One choice of a job's rows to one target."""

    target: str
    rows: Rows = "all"
    partition_by: tuple[str, ...] = ()
    new_columns: NewColumns = "refuse"

    @property
    def id(self) -> str:
        """Name of the folder of its records: the same for one target and choice of rows."""
        return hashlib.sha256(f"{self.rows} {self.target}".encode()).hexdigest()[:16]


class ExportOutcome(Document):
    """The results are at the target."""

    format_version: int = FORMAT_VERSION
    export: Export
    kind: Literal["file", "directory", "delta", "iceberg"]
    num_rows: int = Field(ge=0, description="Rows of the job at the target.")
    version: str | None = Field(None, description="Version or snapshot of the table that has the rows.")
    found: bool = Field(False, description="An earlier exporter had written them and could not record it.")
    replaced: tuple[str, ...] = Field((), description="Jobs of earlier rounds of the same date whose rows gave way.")
    superseded_by: str | None = Field(None, description="Job of a later round of the date, whose rows stay instead.")
    at: str = Field(description="UTC, ISO 8601. For people; no decision depends on it.")


class ExportFailure(Document):
    """Why the last try of an export has failed. Advisory: the export is tried again."""

    export: Export
    reason: str = Field(description="What happened, for people. Never quotes a prompt.")
    hint: str = ""
    at: str = Field(description="UTC, ISO 8601.")
