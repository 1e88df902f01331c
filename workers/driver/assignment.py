"""What the dispatcher hands out, and what it finds out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.codes import JobError, RowError


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Work on one shard, assigned to a replica.

    Attributes:
        num_rows: valid rows of the shard.
        num_bytes: memory that its staged rows take; 0 if unknown.
        kind: `commit`: run all rows except the excluded ones and commit. `probe`: run only the rows at `places`, to
            see whether the engine survives them; nothing is committed. `control`: probe a row that is not suspected.
        excluded: place and code of the rows that kill the engine: they are not run and become error rows.
        alone: the replica runs nothing else meanwhile, so that the cause of an engine's death is known.
        copy: another replica also works on the shard; the first to commit it wins.
    """

    shard: int
    num_rows: int
    kind: Literal["commit", "probe", "control"]
    places: tuple[int, ...] | None
    excluded: Mapping[int, RowError]
    alone: bool
    copy: bool = False
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Killer:
    """A row that kills the engine. `place` is its index among the shard's valid rows."""

    shard: int
    place: int
    code: RowError


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Reason why the job cannot go on. `reason` has no full stop: the engine's last output is appended."""

    code: JobError
    reason: str
