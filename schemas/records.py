"""Documents of the job directory besides the spec: plan, attempts, terminal record, manifest, progress."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.codes import InterruptionCode, RowError

RowColumn = Literal["tool_calls", "parsed", "is_greedy"]
"""A result column that a job has because of its rows, the same in every shard; `is_greedy` is a field of its column
`choices`, which plans of older versions lack."""


class InputFile(Document):
    """One input file, pinned: a changed file cannot slip into a resumed job."""

    uri: str
    size_bytes: int = Field(ge=0)
    identity: str = Field(description="`sha256:…` of a local file's bytes, `etag:…` of an S3 object.")
    num_rows: int = Field(ge=0)


class InputColumn(Document):
    """One column of the unified schema of all input files."""

    name: str
    type: str = Field(description="As Arrow writes it. For people: no decision depends on it.")


TableFormat = Literal["delta", "iceberg", "hub"]


class InputTable(Document):
    """A table with a log, or a data set on Hugging Face's hub, among the inputs: pinned to one of its versions."""

    uri: str
    format: TableFormat
    version: str = Field(description="Version of a Delta table, id of an Iceberg snapshot, or hash of a commit.")
    metadata_uri: str | None = Field(None, description="Metadata file of an Iceberg table that names the snapshot.")
    since: str | None = Field(None, description="Only rows appended after this version or snapshot; null: all rows.")

    @property
    def shown(self) -> str:
        """The table and its version, for people."""
        after = f", rows appended after {self.since}" if self.since is not None else ""
        return f"{self.uri} ({self.format}, version {self.version}{after})"


class ShardPlan(Document):
    """What shard `index` must contain."""

    index: int = Field(ge=0)
    group: int | None = Field(None, description="First shard of those that share a long prefix with this one.")
    num_rows: int = Field(ge=1)
    num_invalid_rows: int = Field(ge=0, description="Rows that staging has already turned into error rows.")
    num_reused_rows: int = Field(0, ge=0, description="Rows taken from earlier jobs: all of a shard's rows or none.")
    num_input_tokens: int = Field(ge=0)
    num_cached_tokens: int = Field(0, ge=0, description="Of these, the ones that a row before has in its prefix.")
    num_expected_tokens: int = Field(ge=0, description="Input tokens plus the output tokens budgeted for.")
    num_bytes: int | None = Field(
        None, ge=0, description="Of its staged rows in memory, kept columns too; null: an older version did not count."
    )
    row_ids_sha256: str = Field(description="SHA-256 of the sorted row ids as little-endian int64.")

    @property
    def num_runnable_rows(self) -> int:
        """Rows that an engine can run: neither refused by staging nor answered by an earlier job."""
        return self.num_rows - self.num_invalid_rows - self.num_reused_rows


class LengthBin(Document):
    """Rows of similar length among those that an engine computes. Their answers are as long as they may be."""

    upto_tokens: int = Field(ge=1, description="Prompt plus answer of the longest of them; a power of two.")
    num_rows: int = Field(ge=1)
    num_input_tokens: int = Field(ge=0)
    num_output_tokens: int = Field(ge=0)


class Plan(Document):
    """The deterministic split of the rows into shards. Depends on dataset and spec only."""

    format_version: int = FORMAT_VERSION
    spec_sha256: str
    files: tuple[InputFile, ...]
    tables: tuple[InputTable, ...] = Field((), description="Tables whose files are among `files`, with their version.")
    columns: tuple[InputColumn, ...] = Field((), description="Unified schema; empty: an older version did not note it.")
    shards: tuple[ShardPlan, ...]
    row_columns: tuple[RowColumn, ...] = Field((), description="Result columns that the dataset's columns call for.")
    num_rows: int = Field(ge=0)
    num_invalid_rows: int = Field(ge=0)
    num_reused_rows: int = Field(0, ge=0, description="Rows whose result an earlier job has.")
    num_repeated_rows: int = Field(0, ge=0, description="Rows whose result another row of this job has.")
    reused_jobs: tuple[str, ...] = Field((), description="Jobs that results are taken from; the first that has one.")
    reuse_version: int = Field(
        1,
        description="1: results are found by the whole fingerprint; 2: also where only what can end an answer differs.",
    )
    num_input_tokens: int = Field(ge=0)
    num_cached_tokens: int = Field(0, ge=0, description="Of these, the ones that a prefix cache should have.")
    max_input_tokens: int = Field(ge=0, description="Longest valid prompt.")
    lengths: tuple[LengthBin, ...] = Field((), description="Histogram of the rows to compute, short ones first.")
    max_model_len: int = Field(ge=1, description="Sequence length that rows were validated against.")


class Attempt(Document):
    """One try of one shard by one replica, written before the work starts."""

    attempt_id: str
    shard: int = Field(ge=0)
    probe: bool = Field(False, description="Of some rows, without a commit: to find those that kill the engine.")
    driver: str = Field(description="Ray submission id of the driver.")
    replica: str
    node: str
    pid: int
    started_at: str = Field(description="UTC, ISO 8601. For people; no decision depends on it.")


Gate = Literal[
    "max_error_rate", "max_length_finish_rate", "max_repetition_rate", "max_empty_rate", "min_valid_json_rate"
]
"""The quality gates of a job, by the names of their limits in the spec."""


class CrossedGate(Document):
    """A limit of the spec that the results do not keep."""

    gate: Gate
    limit: float
    rate: float = Field(description="`num_rows` over `of_rows`.")
    num_rows: int = Field(ge=0, description="Rows that the gate counts.")
    of_rows: int = Field(ge=1)


class Quality(Document):
    """How the rows of committed shards were answered."""

    finish_reasons: dict[str, int] = Field(
        default_factory=dict, description="Rows by `finish_reason`: stop, length, repetition, error."
    )
    num_empty_rows: int = Field(0, ge=0, description="Answers without text and tool calls.")
    num_json_rows: int = Field(0, ge=0, description="Answers that had to be JSON, with those of INVALID_FORM.")
    num_not_json_rows: int = Field(0, ge=0, description="Of these, the ones that are not: cut or invalid.")
    num_invalid_form_rows: int = Field(0, ge=0, description="Error rows with INVALID_FORM, of JSON or another form.")
    warnings: tuple[str, ...] = Field((), description="What a person should look at, with what mends it.")


class Quarantine(Document):
    """A row that kills or hangs the engine. Advisory: spares later drivers the search."""

    shard: int = Field(ge=0)
    place: int = Field(ge=0, description="Position among the valid rows of the staged shard.")
    code: Literal[RowError.ENGINE_CRASH, RowError.TIMEOUT]


class ShardCommit(Document):
    """A committed shard as the manifest lists it."""

    index: int = Field(ge=0)
    key: str
    num_rows: int = Field(ge=1)
    num_error_rows: int = Field(ge=0)
    num_length_rows: int = Field(0, ge=0, description="Answers that were cut by their length.")
    num_repetition_rows: int = Field(0, ge=0, description="Answers that were ended in a loop.")
    num_empty_rows: int = Field(0, ge=0, description="Answers without text and tool calls.")
    num_valid_json_rows: int = Field(0, ge=0, description="Answers that are JSON; counted if the job has that gate.")
    num_json_rows: int = Field(0, ge=0, description="Answers that had to be JSON, with those of INVALID_FORM.")
    num_not_json_rows: int = Field(0, ge=0, description="Of these, the ones that are not: cut or invalid.")
    error_codes: dict[str, int] = Field(default_factory=dict, description="The error rows by their code.")
    num_input_tokens: int = Field(ge=0)
    num_generated_tokens: int = Field(ge=0)
    size_bytes: int = Field(ge=1)
    sha256: str
    attempt_id: str


class Manifest(Document):
    """All of a job's results. `_SUCCESS` holds exactly this document; with a crossed gate there is no `_SUCCESS`."""

    format_version: int = FORMAT_VERSION
    job_id: str
    plan_sha256: str
    shards: tuple[ShardCommit, ...]
    num_rows: int = Field(ge=0)
    num_error_rows: int = Field(ge=0)
    num_length_rows: int = Field(0, ge=0)
    num_repetition_rows: int = Field(0, ge=0)
    num_empty_rows: int = Field(0, ge=0)
    num_valid_json_rows: int = Field(0, ge=0)
    num_input_tokens: int = Field(ge=0)
    num_generated_tokens: int = Field(ge=0)
    crossed_gates: tuple[CrossedGate, ...] = ()


class Succeeded(Document):
    """Every row has its result. Whether the results are good enough is what the manifest's gates tell."""

    state: Literal["SUCCEEDED"] = "SUCCEEDED"
    format_version: int = FORMAT_VERSION
    manifest: Manifest


class Failed(Document):
    """A permanent fault: running it again without a change would fail again."""

    state: Literal["FAILED"] = "FAILED"
    format_version: int = FORMAT_VERSION
    code: str
    reason: str = Field(description="What happened and what to do, for people. Never quotes a prompt.")


class Cancelled(Document):
    """Ended by a person."""

    state: Literal["CANCELLED"] = "CANCELLED"
    format_version: int = FORMAT_VERSION
    by: str


class Interruption(Document):
    """Why a driver ended before its job did, write-once. The job is not ended by it: another driver goes on."""

    format_version: int = FORMAT_VERSION
    driver: str = Field(description="Ray submission id of the driver.")
    code: InterruptionCode
    reason: str = Field(description="What happened, for people. Never quotes a prompt.")
    hint: str = Field("", description="What to do next.")
    at: str = Field("", description="UTC, ISO 8601. For people; no decision depends on it.")


class Tombstone(Document):
    """What is left of a job that was deleted, write-once. It stays: the id is never used again."""

    format_version: int = FORMAT_VERSION
    job_id: str
    by: str = Field(description="Who has deleted it.")
    at: str = Field(description="UTC, ISO 8601. For people; no decision depends on it.")
    reason: str = Field("", description="What has deleted it: a command, a schedule's policy, a batch's.")
    name: str = ""
    state: str = Field("", description="How it had ended.")
    created_at: str = ""
    num_rows: int | None = None
    num_error_rows: int | None = None


Terminal = Annotated[Succeeded | Failed | Cancelled, Field(discriminator="state")]
"""The one write-once document that ends a job."""


ReplicaState = Literal["waiting", "loading", "ready", "lost"]


class ReplicaProgress(Document):
    """One replica as its driver last saw it."""

    replica: str
    state: ReplicaState
    node: str = ""
    pid: int = 0
    since_s: float = Field(0.0, description="Seconds in this state.")
    shards: tuple[int, ...] = ()
    rows_in_flight: int = 0
    rows_waiting: int = Field(0, description="Of these, the ones that the engine does not compute yet.")
    rows_done: int = 0
    idle_s: float = Field(0.0, description="Seconds since it was ready in which its engine had no row.")
    lag_s: float = Field(0.0, description="Seconds that its event loop was late, in total.")
    restarts: int = 0
    note: str = ""


class ProcessId(Document):
    """A process as others on its machine find it: exact there, and meaningless anywhere else."""

    machine: str = Field(description="Of the boot and of the process namespace; equal where the pid means the same.")
    pid: int
    started: float = Field(description="When it started, as the machine itself counts: tells reused pids apart.")


class Progress(Document):
    """What the driver says about itself every few seconds. Advisory: never a basis for a decision."""

    driver: str
    updated_at: str = Field(description="UTC, ISO 8601.")
    started_at: str
    process: ProcessId | None = Field(None, description="The driver's own; None where it cannot be told.")
    phase: Literal["starting", "staging", "running", "finishing", "ended"]
    rows_total: int | None = None
    rows_staged: int = 0
    rows_ok: int = Field(0, description="Rows that ended well and are kept: committed or salvaged.")
    rows_error: int = Field(0, description="Error rows that are kept.")
    rows_salvaged: int | None = Field(
        None,
        description="Of both, the ones in shards that are not committed; null by older versions, whose counts include "
        "rows that were not kept.",
    )
    rows_uncommitted: int = Field(0, description="Finished rows that wait for their shard's commit: not kept yet.")
    error_codes: dict[str, int] = Field(default_factory=dict, description="Committed error rows by their code.")
    quality: Quality | None = Field(None, description="Of committed rows, without warnings; null by older versions.")
    shards_total: int | None = None
    shards_committed: int = 0
    input_tokens: int = 0
    generated_tokens: int = 0
    input_tokens_per_s: float = 0.0
    generated_tokens_per_s: float = 0.0
    engine_input_tokens: int = Field(0, description="Input tokens that went through the engines of this driver.")
    cached_tokens: int = Field(0, description="Of those, the ones found in a prefix cache.")
    eta_s: float | None = None
    eta_low_s: float | None = Field(None, description="With `eta_high_s`: where the end lies if rates stay as spread.")
    eta_high_s: float | None = Field(None, description="None with a low end: the rates say nothing about the latest.")
    engine_s: float = Field(0.0, description="Seconds that this driver's engines were ready, over all of them.")
    engine_idle_s: float = Field(0.0, description="Of these, the ones without a row: the hardware waited.")
    gpu_s: float = Field(0.0, description="GPU-seconds that replicas of this and earlier drivers have held.")
    planned_s: float | None = Field(None, description="Seconds that earlier jobs let expect of this driver's run.")
    took_s: float | None = Field(None, description="Seconds that it took until every row was committed.")
    tail_s: float | None = Field(None, description="Seconds that the last 5 % of the rows took.")
    shard_copies: int = Field(0, description="Open shards that this driver gave to an idle replica, too.")
    replicas: tuple[ReplicaProgress, ...] = ()
    message: str = ""
