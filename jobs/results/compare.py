"""Comparison of two jobs row by row, by place in the same dataset or by key, with constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import JobsError, UsageError
from jobs.ledger import Ledger
from jobs.results.keyed import KEY, PLACE, KeyedRows
from jobs.results.read import open_results

_ANSWER = {"generate": "generated_text", "score": "best_choice", "perplexity": "sum_logprob"}


@dataclass(kw_only=True, slots=True)
class Comparison:
    """Counts over the rows that both jobs have; complete once all rows have been streamed.

    Attributes:
        both_ok: rows that both have answered; `same`: those with the same text (or the same choice).
        status: rows by their change of status, such as `ok -> error`; only changes.
        finish_reasons: rows that both have answered, by their change of finish reason; only changes.
        error_codes: rows that failed in both, by their change of error code; only changes.
        shorter: rows that both have answered, B with fewer tokens; `longer`: with more.
        tokens_a: tokens that A generated for rows that both have answered.
        by: what rows are matched by: their place in the dataset (`row_id`) or their key (`custom_id`).
        only_a: rows that only A has, because B is not complete or has not their key.
        without_key_a: rows of A that cannot be matched because they have no key; `repeated_key_a`: because another row
            of A has the same.
    """

    a: str
    b: str
    rows: int = 0
    both_ok: int = 0
    same: int = 0
    changed: int = 0
    status: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    error_codes: Counter[str] = field(default_factory=Counter)
    shorter: int = 0
    longer: int = 0
    tokens_a: int = 0
    tokens_b: int = 0
    only_a: int = 0
    only_b: int = 0
    by: str = "row_id"
    without_key_a: int = 0
    without_key_b: int = 0
    repeated_key_a: int = 0
    repeated_key_b: int = 0

    @property
    def unmatched(self) -> list[str]:
        """What could not be compared, and why, in words."""
        found = []
        for job, only, without, repeated in (
            (self.a, self.only_a, self.without_key_a, self.repeated_key_a),
            (self.b, self.only_b, self.without_key_b, self.repeated_key_b),
        ):
            found += [f"{only:,} only in {job}"] if only else []
            found += [f"{without:,} of {job} without a custom_id"] if without else []
            found += [f"{repeated:,} of {job} with a custom_id that comes again"] if repeated else []
        return found

    @property
    def agreement(self) -> float | None:
        """Share of equal answers among the rows that both have answered, 0 to 1; None if there are none."""
        return self.same / self.both_ok if self.both_ok else None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form. Keys are stable."""
        agreement = None if self.agreement is None else round(self.agreement, 6)
        changes = {name: dict(getattr(self, name)) for name in ("status", "finish_reasons", "error_codes")}
        return asdict(self) | changes | {"agreement": agreement}


class Pair:
    """Two jobs that can be compared: by the place of rows if they have read the same files, else by `custom_id`.

    Raises:
        UsageError: no such job, the jobs have different tasks, or different files and rows without keys.
        JobsError: one of the jobs has no results yet.
    """

    def __init__(self, a: Ledger, b: Ledger) -> None:
        task, other = a.spec().task, b.spec().task
        by_key = not _same_dataset(a, b)
        if task != other:
            raise UsageError(f"{a.job_id} is a job to {task}, {b.job_id} to {other}.", "Compare jobs of one task.")
        self._answer = _ANSWER[task]
        self._results = (open_results(a), open_results(b))
        self.counts = Comparison(a=a.job_id, b=b.job_id, by=KEY if by_key else "row_id")
        self._keyed = tuple(KeyedRows(results) for results in self._results) if by_key else None
        for ledger, rows in zip((a, b), self._keyed or (), strict=False):
            if not rows.has_keys():
                raise _not_matched(a, b, ledger)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the changed rows: `row_id` (that of A), `custom_id`, and each job's result columns as `…_a` and
        `…_b`."""
        schema = self._results[0].schema
        own = [f.with_name(f"{f.name}_{side}") for f in map(schema.field, self._columns()) for side in "ab"]
        return pa.schema([schema.field("row_id"), schema.field("custom_id"), *own])

    def changed(self) -> Iterator[pa.Table]:
        """Yield the rows whose status, answer or finish reason differs, in row order (in no order, if they are matched
        by key); count all rows on the way."""
        names = self._columns()
        wanted, place = ["row_id", "custom_id", *names], PLACE if self._keyed else "row_id"
        a, b = (rows.tables(columns=wanted) for rows in self._keyed or self._results)
        for left, right in self._common(a, b):
            differs = self._count(left, right)
            columns = [left[place], left["custom_id"], *(t[name] for name in names for t in (left, right))]
            yield pa.table(columns, schema=self.schema).filter(pa.array(differs))

    def _columns(self) -> list[str]:
        names = ("status", "error_code", "finish_reason", "num_generated_tokens", self._answer)
        return [name for name in names if all(name in results.schema.names for results in self._results)]

    def _common(self, a: Iterator[pa.Table], b: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield the rows that both have, side by side; both inputs are in row order, in tables of any size."""
        left, right = next(a, None), next(b, None)
        while left is not None and right is not None:
            ids, other = left["row_id"].to_numpy(), right["row_id"].to_numpy()
            last = min(ids[-1], other[-1])
            stop, stop_other = np.searchsorted(ids, last, "right"), np.searchsorted(other, last, "right")
            _, at, at_other = np.intersect1d(ids[:stop], other[:stop_other], assume_unique=True, return_indices=True)
            if self._keyed:  # equal hashes are not equal keys
                keys = left[KEY].take(pa.array(at)), right[KEY].take(pa.array(at_other))
                alike = pc.equal(*keys).to_numpy()
                at, at_other = at[alike], at_other[alike]
            self.counts.only_a += int(stop) - len(at)
            self.counts.only_b += int(stop_other) - len(at)
            if len(at):
                yield left.take(pa.array(at)), right.take(pa.array(at_other))
            left = left.slice(stop) if stop < len(ids) else next(a, None)
            right = right.slice(stop_other) if stop_other < len(other) else next(b, None)
        for rest, tables, name in ((left, a, "only_a"), (right, b, "only_b")):
            extra = (rest.num_rows if rest is not None else 0) + sum(table.num_rows for table in tables)
            setattr(self.counts, name, getattr(self.counts, name) + extra)
        if self._keyed:
            self.counts.without_key_a, self.counts.without_key_b = (rows.num_without_key for rows in self._keyed)
            self.counts.repeated_key_a, self.counts.repeated_key_b = (rows.num_repeated for rows in self._keyed)

    def _count(self, a: pa.Table, b: pa.Table) -> npt.NDArray[np.bool_]:
        """Count these rows; return the mask of changed ones."""
        counts = self.counts
        ok_a, ok_b = (pc.equal(table["status"], "ok").to_numpy() for table in (a, b))
        both_ok, both_failed = ok_a & ok_b, ~ok_a & ~ok_b
        same_answer = _equal(a[self._answer], b[self._answer])
        differs = (ok_a != ok_b) | ~same_answer
        counts.rows += a.num_rows
        counts.both_ok += int(both_ok.sum())
        counts.same += int((both_ok & same_answer).sum())
        counts.status.update(_changes(a["status"], b["status"], ok_a != ok_b))
        counts.error_codes.update(
            _changes(a["error_code"], b["error_code"], both_failed & ~_equal(a["error_code"], b["error_code"]))
        )
        if "finish_reason" in a.schema.names:
            other_end = both_ok & ~_equal(a["finish_reason"], b["finish_reason"])
            counts.finish_reasons.update(_changes(a["finish_reason"], b["finish_reason"], other_end))
            differs |= other_end
        if "num_generated_tokens" in a.schema.names:
            tokens_a, tokens_b = (t["num_generated_tokens"].fill_null(0).to_numpy()[both_ok] for t in (a, b))
            counts.shorter += int((tokens_b < tokens_a).sum())
            counts.longer += int((tokens_b > tokens_a).sum())
            counts.tokens_a += int(tokens_a.sum())
            counts.tokens_b += int(tokens_b.sum())
        counts.changed += int(differs.sum())
        return np.asarray(differs, dtype=np.bool_)


def _same_dataset(a: Ledger, b: Ledger) -> bool:
    plans = a.plan(), b.plan()
    for ledger, plan in zip((a, b), plans, strict=True):
        if plan is None:
            raise JobsError(f"Job {ledger.job_id} has no results yet.", f"See: jobs status {ledger.job_id}")
    files, others = ([(file.num_rows, file.identity) for file in plan.files] for plan in plans if plan is not None)
    return files == others


def _not_matched(a: Ledger, b: Ledger, without: Ledger) -> UsageError:
    uris = [ledger.spec().input.shown for ledger in (a, b)]
    what = f"{uris[0]} has changed between them" if uris[0] == uris[1] else f"{uris[0]} and {uris[1]}"
    return UsageError(
        f"{a.job_id} and {b.job_id} have different datasets: {what}. Their rows could only be matched by custom_id, "
        f"and no row of {without.job_id} has one.",
        "Give both datasets a column custom_id, the same for the same row, or compare jobs that have read the very "
        "same files.",
    )


def _equal(a: pa.ChunkedArray, b: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Compute the mask of equal values; null equals null."""
    equal = pc.fill_null(pc.equal(a, b), False)
    return np.asarray(pc.or_(equal, pc.and_(pc.is_null(a), pc.is_null(b))).to_numpy(), dtype=np.bool_)


def _changes(a: pa.ChunkedArray, b: pa.ChunkedArray, which: npt.NDArray[np.bool_]) -> Counter[str]:
    mask = pa.array(which)
    pairs = zip(a.filter(mask).to_pylist(), b.filter(mask).to_pylist(), strict=True)
    return Counter(f"{before} -> {after}" for before, after in pairs)
