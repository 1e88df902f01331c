"""The index of ended jobs, beside the job directories: what lists quickly. Other tools skip names that start with `_`.

    _index/jobs/<sha256>.json.gz   a page: what is known of up to `PAGE_JOBS` ended jobs; named after its bytes
    _index/batches.json.gz         how the batches of `jobs serve` have ended; overwritten
    _index/changed/<job_id>        an ended job is to be looked at again, once: it was deleted, or is about to be, or a
                                   new job has its id

Advisory, never a basis for a decision. All of it can be deleted at any time; it is made again from the jobs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.codes import BatchEnd, State
from schemas.records import CrossedGate

PAGES = "_index/jobs/"
CHANGED = "_index/changed/"
ENDED_BATCHES = "_index/batches.json.gz"
PAGE_JOBS = 1000
"""Most jobs on one page."""

CLEARED = 2
"""Revision of a deleted job of which nothing but its tombstone was left when it was looked at long afterwards."""


class IndexedJob(Document):
    """What lists show of a job that has ended, with the numbers and words of its status."""

    job_id: str
    revision: int = Field(
        0,
        ge=0,
        description="The highest one counts: 1 once the job was deleted, 2 once all of it is gone.",
    )
    deleted: bool = Field(False, description="Only its tombstone is left; lists leave it out.")
    state: State
    created_at: AwareDatetime = Field(description="By the store's clock; tells a job from an earlier one of its id.")
    name: str
    dataset: str
    task: Literal["generate", "score", "perplexity"]
    model: str
    model_fingerprint: str | None = None
    succeeded: bool = Field(description="It has a result for every row, whatever its gates say.")
    rows_total: int | None = None
    rows_done: int = 0
    rows_error: int = 0
    duration_s: float | None = None
    gpu_s: float = 0.0
    crossed_gates: tuple[CrossedGate, ...] = ()
    schedule: str | None = None
    retry_of: tuple[str, ...] = ()
    reason: str | None = None
    hint: str | None = None


class IndexPage(Document):
    """Some ended jobs."""

    format_version: int = FORMAT_VERSION
    jobs: tuple[IndexedJob, ...]


class BatchIndex(Document):
    """How batches have ended."""

    format_version: int = FORMAT_VERSION
    ended: dict[str, BatchEnd] = Field(description="Status by batch id.")


def page_key(digest: str) -> str:
    """The page with this SHA-256 of its bytes, below the root."""
    return f"{PAGES}{digest}.json.gz"


def digest_of(key: str) -> str | None:
    """The hash in a key that `page_key` makes; None for any other."""
    name = key.removeprefix(PAGES).removesuffix(".json.gz")
    return name if key == page_key(name) and len(name) == 64 else None


def changed_key(job_id: str) -> str:
    """The mark that a job is to be looked at again."""
    return f"{CHANGED}{job_id}"
