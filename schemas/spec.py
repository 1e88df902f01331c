"""The spec: what the user asked for, frozen at submit."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.columns import OWN_COLUMNS, RESERVED_COLUMNS, TRUNCATED
from schemas.exports import ExportSpec
from schemas.inputs import InputSpec
from schemas.limits import Limits
from schemas.options import Option, Panel
from schemas.sampling import Sampling

__all__ = [
    "AUTO",
    "JOB_ID",
    "OWN_COLUMNS",
    "RESERVED_COLUMNS",
    "TRUNCATED",
    "EngineSpec",
    "FakeSpec",
    "InputSpec",
    "JobSpec",
    "ModelSpec",
    "ReplicaRange",
    "ShardBudget",
]

JOB_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,98}[a-z0-9]|[a-z0-9]")
"""Safe as a path segment, an S3 key part and a Ray submission id."""

AUTO = "auto"
"""In `reuse`: every earlier job that may have results for this one."""

LAST_GOOD = "last-good"
"""In `reuse` of a schedule: the job of the newest earlier date whose results were published."""


class ModelSpec(Document):
    """Which model, proved by fingerprint to be the same on every attempt."""

    path: Annotated[str, Option(panel=Panel.ENGINE, name="model")] = Field(
        min_length=1, description="Model directory as the cluster's nodes see it."
    )
    fingerprint: str | None = Field(None, description="Hash of config, tokenizer and weights, pinned at submit.")
    compiled: str | None = Field(
        None, description="Hash of the manifest of compiled code beside the model, pinned at submit if there is one."
    )


class FakeSpec(Document):
    """Behaviour of the `fake` engine: deterministic text from the token ids, no model."""

    token_s: float = Field(0.0, ge=0.0, description="Seconds per generated token.")
    start_s: float = Field(0.0, ge=0.0, description="Seconds that a replica takes to start.")
    start_error: str | None = Field(None, description="The engine does not start and says this.")
    fail_marker: str | None = Field(None, description="A prompt that contains this text fails with ENGINE_ERROR.")
    raise_marker: str | None = Field(None, description="A prompt with it makes the engine raise what it should not.")
    formless_marker: str | None = Field(None, description="A prompt with it is answered without regard to its form.")
    loop_marker: str | None = Field(None, description="A prompt with it is answered by one token, again and again.")
    blank_marker: str | None = Field(
        None, description="A prompt with it is answered by nothing, unless it is sampled at random."
    )
    nonsense_marker: str | None = Field(None, description="A prompt with it is answered with what is no answer.")
    crash_marker: str | None = Field(None, description="A prompt that contains this text kills the process.")
    exit_marker: str | None = Field(None, description="A prompt with it makes the process exit after a last line.")
    dead_marker: str | None = Field(None, description="A prompt with it is the engine's death, not its process's.")
    memory_marker: str | None = Field(None, description="A prompt with it takes memory (256 MiB) until killed for it.")
    hang_marker: str | None = Field(None, description="A prompt with it stops the engine: no row ends any more.")
    freeze_marker: str | None = Field(None, description="A prompt with it stops the whole process; it answers nothing.")


class EngineSpec(Document):
    """The engine and its limits. A limit left out is chosen for the hardware and recorded."""

    name: Annotated[Literal["vllm", "fake"], Option(panel=Panel.ENGINE, name="engine")] = Field(
        "vllm", description="What runs the model; fake: made-up answers without a model, to try the pipeline."
    )
    device: Annotated[Literal["auto", "gpu", "cpu"], Option(panel=Panel.ENGINE)] = Field(
        "auto", description="auto: GPUs if the cluster has any or the model is large."
    )
    dtype: Annotated[Literal["auto", "bfloat16", "float16", "float32"], Option(panel=Panel.ENGINE)] = Field(
        "auto", description="Type of the weights; auto: the model's own."
    )
    load_format: Literal["auto", "safetensors", "dummy"] = Field("auto", description="dummy: random weights.")
    max_model_len: Annotated[int | None, Option(panel=Panel.ENGINE)] = Field(
        None, ge=2, description="Longest sequence, prompt plus answer, in tokens."
    )
    max_num_seqs: Annotated[int | None, Option(panel=Panel.ENGINE)] = Field(
        None, ge=1, le=8192, description="Most rows decoded at once by a replica."
    )
    max_num_batched_tokens: int | None = Field(None, ge=1, description="Tokens per engine step.")
    gpu_memory_utilization: float = Field(0.90, gt=0.0, le=1.0, description="Share of GPU memory for the engine.")
    tensor_parallel_size: Annotated[int, Option(panel=Panel.ENGINE, name="tensor_parallel")] = Field(
        1, ge=1, le=64, description="GPUs that share a model copy, for models that one GPU does not hold."
    )
    quantization: Annotated[Literal["fp8"] | None, Option(panel=Panel.ENGINE)] = Field(
        None, description="fp8: weights in 8 bits, which is faster and changes results. GPU only."
    )
    kv_cache_dtype: Annotated[Literal["auto", "fp8"], Option(panel=Panel.ENGINE)] = Field(
        "auto", description="fp8: room for twice the tokens, which changes results. GPU only."
    )
    speculative_ngram: Annotated[int | None, Option(panel=Panel.ENGINE)] = Field(
        None, ge=1, le=16, description="Tokens guessed per step from the row's own text: faster where answers quote it."
    )
    start_timeout_s: float = Field(3600.0, gt=0.0, description="Longest start of a replica, model loading included.")
    stall_timeout_s: float = Field(600.0, gt=0.0, description="A replica that computes nothing for so long is ended.")
    enforce_eager: bool = Field(False, description="No torch.compile and no CUDA graphs: starts faster, runs slower.")
    fake: FakeSpec = FakeSpec()

    @property
    def needs_gpu(self) -> tuple[str, ...]:
        """The options given that only GPUs can do."""
        fp8 = (("--quantization fp8", self.quantization), ("--kv-cache-dtype fp8", self.kv_cache_dtype == "fp8"))
        return tuple(option for option, given in fp8 if given)

    @model_validator(mode="after")
    def _can_do_it(self) -> Self:
        speculative = ("--speculative-ngram",) if self.speculative_ngram is not None else ()
        if self.name == "fake" and (given := (*self.needs_gpu, *speculative)):
            raise ValueError(f"the fake engine computes nothing; drop {' and '.join(given)}")
        if self.device == "cpu" and self.needs_gpu:
            raise ValueError(f"{' and '.join(self.needs_gpu)} needs a GPU; drop it, or --device cpu")
        return self


class ReplicaRange(Document):
    """How many replicas the job uses: it starts with what comes up and uses what joins."""

    min: int = Field(1, ge=1, le=10_000)
    max: int = Field(1, ge=1, le=10_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"{self.min}..{self.max}: the first number is larger than the second")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """`8` or `2..16`.

        Raises:
            ValueError: neither of the two forms, or out of range.
        """
        match = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", text)
        if match is None:
            raise ValueError(f"{text[:40]!r} is not a number of replicas; write 8 or 2..16")
        low = int(match[1])
        return cls(min=low, max=int(match[2]) if match[2] else low)


class ShardBudget(Document):
    """Size of a shard: the unit of work and of commit. Independent of the cluster's size.

    A shard holds the job's tokens over `target_count`, but no less than `min_tokens` (a commit costs
    a request) and no more than `max_tokens` (what a dying replica can lose). No process holds more than about three
    times the bytes of the shards that it has open, so `max_bytes` is what bounds memory.
    """

    target_count: int = Field(64, ge=1, description="Shards that a small job is cut into, so that replicas share it.")
    min_tokens: int = Field(16_384, ge=1, description="Least input plus expected output tokens of one shard.")
    max_tokens: int = Field(2_000_000, ge=1, description="Most input plus expected output tokens of one shard.")
    max_rows: int = Field(16_384, ge=1, description="Most rows in one shard.")
    max_bytes: int = Field(
        128 * 2**20, ge=1, description="Most bytes in memory of one shard's staged rows, kept columns included."
    )


class Retry(Document):
    """Which job a job repairs: rows that are chosen are computed, and the results of all others are copied from it."""

    ancestors: tuple[str, ...] = Field(
        min_length=1, description="The jobs before it, oldest first; the last is the one."
    )
    where: tuple[str, ...] = Field(
        ("status=error",),
        min_length=1,
        description="Conditions on that job's results; rows that meet all are computed.",
    )

    @field_validator("ancestors")
    @classmethod
    def _are_job_ids(cls, jobs: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := next((job for job in jobs if not JOB_ID.fullmatch(job)), None):
            raise ValueError(f"{wrong[:100]!r} is not a job id")
        return jobs

    @property
    def job(self) -> str:
        """Id of the job whose rows it repairs."""
        return self.ancestors[-1]


class JobSpec(Document):
    """One dataset and everything that decides what its rows become."""

    format_version: int = FORMAT_VERSION
    name: Annotated[
        str,
        Option(panel=Panel.JOB, help="Shown in lists and in the Ray dashboard. Default: the dataset's name."),
    ] = Field(min_length=1, max_length=200, description="Shown in lists and in the Ray dashboard.")
    task: Annotated[Literal["generate", "score", "perplexity"], Option(panel=Panel.JOB)] = Field(
        "generate",
        description="generate text; or score: how likely each of a row's choices is; or perplexity: how likely the "
        "prompt itself is.",
    )
    input: InputSpec
    model: ModelSpec
    replicas: Annotated[
        ReplicaRange,
        Option(panel=Panel.ENGINE, form="text", help="8, or 2..16 to start with 2 and use what joins. Default: 1."),
    ] = ReplicaRange()
    engine: EngineSpec = EngineSpec()
    sampling: Sampling = Sampling()
    shards: ShardBudget = ShardBudget()
    reuse: Annotated[
        tuple[str, ...],
        Option(
            panel=Panel.JOB,
            help="Take equal rows' results from this earlier job, or `auto`; may be repeated. A schedule also takes "
            "`last-good`: its newest good run before.",
        ),
    ] = Field((), description="Earlier jobs whose results are taken for equal rows; `auto`, in a schedule `last-good`.")
    reuse_sampled: Annotated[bool, Option(panel=Panel.JOB)] = Field(
        False, description="With `reuse`: take results that were sampled at random, too."
    )
    retry: Retry | None = Field(None, description="Set by `jobs retry`: the job whose rows this one repairs.")
    retry_invalid: Annotated[int, Option(panel=Panel.JOB)] = Field(
        0,
        ge=0,
        le=10,
        description="Ask again up to so often for an answer that is empty or not the JSON or the form asked for, with "
        "another seed and a higher temperature each time.",
    )
    output_tokens: Annotated[bool, Option(panel=Panel.JOB)] = Field(
        False, description="Add the column `generated_tokens` to the results."
    )
    token_logprobs: Annotated[bool, Option(panel=Panel.JOB)] = Field(
        False, description="With task score or perplexity: add each scored token's id and log-likelihood."
    )
    output_completions: bool = Field(
        False,
        description="Add the column `outputs`: rows may set `n`, as the job's own `n` above 1 allows, too. A row that "
        "sets it above 1 and no temperature gets OpenAI's default of 1 where the job's is 0.",
    )
    output_logprobs: bool = Field(
        False, description="Add the column `logprobs`: rows may ask for them. The job's own `logprobs` add it too."
    )
    keep_staged: Annotated[bool, Option(panel=Panel.JOB)] = Field(
        False, description="Keep the staged shards after success."
    )
    export: ExportSpec = ExportSpec()
    limits: Limits = Limits()
    max_error_rate: Annotated[float, Option(panel=Panel.GATES)] = Field(
        0.05, ge=0.0, le=1.0, description="Most error rows, as a share of all rows."
    )
    max_length_finish_rate: Annotated[float | None, Option(panel=Panel.GATES)] = Field(
        None, ge=0.0, le=1.0, description="Most answers that were cut by their length, as a share of the answers."
    )
    max_repetition_rate: Annotated[float | None, Option(panel=Panel.GATES)] = Field(
        None, ge=0.0, le=1.0, description="Most answers that were ended in a loop, as a share of the answers."
    )
    max_empty_rate: Annotated[float | None, Option(panel=Panel.GATES)] = Field(
        None, ge=0.0, le=1.0, description="Most answers without text and tool calls, as a share of the answers."
    )
    min_valid_json_rate: Annotated[float | None, Option(panel=Panel.GATES)] = Field(
        None, ge=0.0, le=1.0, description="Least answers that are valid JSON, as a share of the answers."
    )
    max_shard_strikes: int = Field(
        2, ge=1, description="Engine deaths over one shard before the rows that cause them are searched."
    )

    @property
    def scores(self) -> bool:
        """Whether the job scores given text instead of generating any."""
        return self.task != "generate"

    @property
    def has_outputs(self) -> bool:
        """Whether the results have a column for several completions of a row."""
        return self.sampling.n > 1 or self.output_completions

    @property
    def has_logprobs(self) -> bool:
        """Whether the results have a column for log-probabilities."""
        return self.sampling.logprobs is not None or self.output_logprobs

    @field_validator("format_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        if version > FORMAT_VERSION:
            raise ValueError(f"format_version {version} is newer than this program's {FORMAT_VERSION}; upgrade it")
        return version

    @field_validator("reuse", mode="before")
    @classmethod
    def _one_or_many(cls, jobs: Any) -> Any:
        return (jobs,) if isinstance(jobs, str) else jobs

    @field_validator("reuse")
    @classmethod
    def _are_job_ids(cls, jobs: tuple[str, ...]) -> tuple[str, ...]:
        for job in jobs:
            if not JOB_ID.fullmatch(job):
                raise ValueError(f"{job[:100]!r} is not a job id")
        if AUTO in jobs and len(jobs) > 1:
            raise ValueError(f"{AUTO!r} stands alone: it takes every earlier job of the same model and task")
        return jobs

    @model_validator(mode="after")
    def _fits_engine(self) -> Self:
        if self.engine.speculative_ngram is not None:
            if self.scores:
                raise ValueError("scoring generates nothing: drop --speculative-ngram")
            if why := self.sampling.not_with_speculation:
                raise ValueError(f"{why} does not work with --speculative-ngram; drop one of them")
        return self

    @model_validator(mode="after")
    def _fits_task(self) -> Self:
        if self.task != "generate" and self.input.truncate is not None:
            raise ValueError("a prompt that is scored is never cut; drop --truncate")
        if self.task != "score" and self.input.choices_column is not None:
            raise ValueError("a column of choices is for scoring; add --task score")
        if self.task == "perplexity" and self.input.chat:
            raise ValueError("the perplexity is that of a plain text, not of a chat; add --no-chat")
        if self.task == "generate":
            if self.token_logprobs:
                raise ValueError("Log-likelihoods of given tokens are for scoring; generated ones have --logprobs")
        elif self.retry_invalid:
            raise ValueError("scoring generates nothing: drop --retry-invalid")
        elif self.sampling != Sampling() or self.output_tokens or self.has_outputs or self.has_logprobs:
            raise ValueError("scoring generates nothing: drop the sampling options and --output-tokens")
        elif any(
            gate is not None
            for gate in (
                self.max_length_finish_rate,
                self.max_repetition_rate,
                self.max_empty_rate,
                self.min_valid_json_rate,
            )
        ):
            raise ValueError("scoring generates nothing: of the gates it has only max_error_rate")
        elif clash := sorted((OWN_COLUMNS[self.task] - {"custom_id"}).intersection(self.input.keep)):
            raise ValueError(f"cannot keep column {clash[0]!r}: the results have a column of that name")
        return self
