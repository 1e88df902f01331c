"""How fast earlier jobs went: what estimates of later ones are made from."""

from __future__ import annotations

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document


class Observation(Document):
    """One job that has succeeded."""

    job_id: str
    name: str = Field(description="The job's name, which the runs of a schedule and of one dataset share.")
    at: str = Field(description="When it ended. UTC, ISO 8601.")
    start_s: float = Field(ge=0.0, description="From the driver's start until its first row was in an engine.")
    engine_s: float = Field(gt=0.0, description="Seconds that engines had rows, over all replicas.")
    computed_tokens: int = Field(ge=0, description="Input tokens that no prefix cache had, plus generated ones.")
    generated_tokens: int = Field(ge=0)
    allowed_tokens: int = Field(ge=0, description="Tokens that the same rows might have generated.")
    num_rows: int = Field(0, ge=0, description="Rows that engines computed; 0: an older version did not count.")
    prompt: str = Field("", description="Fingerprint of what was asked of every row; empty by older versions.")
    scores: bool = Field(False, description="Choices were scored instead of answers generated.")
    has_form: bool = Field(False, description="Answers had to have a form.")
    planned_s: float | None = Field(None, description="Seconds that were predicted; None: nothing was known.")
    took_s: float | None = Field(None, description="Seconds that it took until every row was committed.")

    @property
    def error(self) -> float | None:
        """Factor by which the prediction was wrong, at least 1; None if there was none."""
        if not self.planned_s or not self.took_s:
            return None
        return max(self.took_s / self.planned_s, self.planned_s / self.took_s)


class Throughput(Document):
    """The latest observations of one model in one setup on one kind of hardware."""

    format_version: int = FORMAT_VERSION
    model: str = Field(description="Fingerprint of the model's configuration and tokenizer.")
    setup: str = Field(description="The engine and the options that decide its speed.")
    hardware: str = Field(description="What one replica computes on.")
    observations: tuple[Observation, ...] = Field(description="Oldest first.")

    @property
    def tokens_per_s(self) -> float:
        """Computed tokens per second of one replica over all observations, whatever their work: long jobs count more.

        See `jobs.planning.comparable` for what to expect of a certain job.
        """
        return sum(o.computed_tokens for o in self.observations) / sum(o.engine_s for o in self.observations)

    @property
    def start_s(self) -> float:
        """Seconds from the start of a job until rows are computed, on average."""
        return sum(o.start_s for o in self.observations) / len(self.observations)
