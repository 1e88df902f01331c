"""Which results of earlier jobs are the results of rows of this one. Pure but for reading how earlier answers ended.

A row's result is found by its whole fingerprint. A greedy answer is also found by its open fingerprint, under which
jobs may differ in what can only end an answer, and in how often they ask again: it is the same answer if it ended by
itself, within this row's token limit, and before this row's repetition detection could have ended it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.planning.facts import fingerprints_of
from schemas.spec import JobSpec
from schemas.tables import DETECTION, FINGERPRINT, OPEN_FINGERPRINT

VERSION = 2
"""Version of these rules; a plan says by which one it was made, and is made again by the same."""

_END_COLUMNS = ("row_id", "status", "finish_reason", "num_generated_tokens", "attempts")
END_COLUMNS = (*_END_COLUMNS, "generated_text")
"""Result columns that say how an answer ended."""

Ends = Callable[[int, int], "pa.Table | None"]
"""Gives what `ends_of` says of one shard of one source, by the numbers of both; None if it cannot be read."""


def ends_of(results: pa.Table) -> pa.Table:
    """Return how answers ended, small whatever the size of their texts.

    Args:
        results: rows of a result object, with those of `END_COLUMNS` that it has.
    """
    kept = results.select([name for name in _END_COLUMNS if name in results.schema.names])
    if "generated_text" not in results.schema.names:
        return kept
    blank = pc.equal(pc.utf8_trim_whitespace(results["generated_text"]), "")
    return kept.append_column("blank", pc.fill_null(blank, True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Rows whose results are wanted, in row-id order.

    Attributes:
        whole, open, former: their fingerprints, see `jobs.rows.fingerprints.Prints`.
        detection: their repetition detection as text.
        limit_tokens: most tokens of their answers, all completions together: shape (rows,).
        retry_invalid: how often the job asks again for an invalid answer.
    """

    whole: pa.Array
    open: pa.Array
    former: pa.Array
    detection: pa.Array
    limit_tokens: npt.NDArray[np.int32]
    retry_invalid: int = 0

    @classmethod
    def of(cls, rows: pa.Table, spec: JobSpec, version: int = VERSION) -> Wanted:
        """Return what prepared rows of a job want; rows that are sampled at random, nothing unless the spec says so."""
        table = rows.combine_chunks()
        wanted = cls(
            whole=fingerprints_of(table, sampled=spec.reuse_sampled),
            open=_column(table, OPEN_FINGERPRINT.name),
            former=_column(table, "former_fingerprint"),
            detection=_column(table, DETECTION.name),
            limit_tokens=table["num_output_tokens"].to_numpy(),
            retry_invalid=spec.retry_invalid,
        )
        # Whether a text is JSON is not known without a form: such rows are found by their whole fingerprint.
        version = 1 if spec.retry_invalid and spec.min_valid_json_rate is not None else version
        nothing = pa.nulls(len(table), FINGERPRINT.type)
        return wanted if version >= 2 else replace(wanted, open=nothing, former=nothing)


def find(rows: pa.Table, wanted: Wanted, ends: Ends) -> npt.NDArray[np.int64]:
    """Return the first place in `rows` of a result of each wanted row, -1 if it has none: shape (wanted rows,).

    Args:
        rows: the results, with the columns of `jobs.planning.reuse.Sources.rows`.
    """
    found = _first(rows[FINGERPRINT.name], wanted.whole)
    pairs = [
        _pairs(rows[FINGERPRINT.name], wanted.former, found < 0),
        _pairs(rows[OPEN_FINGERPRINT.name], wanted.open, found < 0),
    ]
    at, place = (np.concatenate(each) for each in zip(*pairs, strict=True))
    if not len(at):
        return found
    order = np.lexsort((place, at))
    at, place = at[order], place[order]
    usable = _usable(rows.take(pa.array(place)), at, wanted, ends)
    at, place = at[usable], place[usable]
    first = np.unique(at, return_index=True)[1]
    found[at[first]] = place[first]
    return found


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _first(known: pa.ChunkedArray, wanted: pa.Array) -> npt.NDArray[np.int64]:
    places = pc.index_in(wanted, value_set=known.combine_chunks(), skip_nulls=True)
    return np.array(places.cast(pa.int64()).fill_null(-1))


def _pairs(
    known: pa.ChunkedArray, wanted: pa.Array, among: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return every wanted row with every place that has its fingerprint."""
    asked = np.flatnonzero(among & np.asarray(wanted.is_valid()))
    prints = wanted.take(pa.array(asked)).dictionary_encode()
    codes = pc.index_in(known.combine_chunks(), value_set=prints.dictionary, skip_nulls=True)
    places = np.flatnonzero(np.asarray(codes.is_valid()))
    codes_at = np.asarray(codes.take(pa.array(places)))
    left = pa.table({"code": pa.array(np.asarray(prints.indices), pa.int32()), "at": asked})
    right = pa.table({"code": pa.array(codes_at, pa.int32()), "place": places})
    joined = left.join(right, "code", join_type="inner", use_threads=False)
    return joined["at"].to_numpy(), joined["place"].to_numpy()


def _usable(results: pa.Table, at: npt.NDArray[np.int64], wanted: Wanted, ends: Ends) -> npt.NDArray[np.bool_]:
    """Return for each pair whether the result is the one that the wanted row would get."""
    usable = np.zeros(len(at), np.bool_)
    jobs, shards = (results[name].to_numpy() for name in ("job", "shard"))
    their_detection, our_detection = results[DETECTION.name], wanted.detection.take(pa.array(at))
    same = _equal_or_both_null(our_detection, their_detection)
    least = _least_tokens(our_detection)
    for job, shard in sorted(set(zip(jobs.tolist(), shards.tolist(), strict=True))):
        ended = ends(job, shard)
        if ended is None:
            continue
        here = np.flatnonzero((jobs == job) & (shards == shard))
        rows = ended.take(
            pc.index_in(results["row_id"].take(pa.array(here)), value_set=ended["row_id"].combine_chunks())
        )
        tokens, limit = _numbers(rows, "num_generated_tokens"), wanted.limit_tokens[at[here]]
        stopped = _is(rows, "finish_reason", "stop") & (tokens <= limit) & (same[here] | (tokens < least[here]))
        # At its last token an answer is cut, not ended.
        looped = _is(rows, "finish_reason", "repetition") & (tokens < limit) & same[here]
        good = _is(rows, "status", "ok") & (_numbers(rows, "attempts") == 1) & (stopped | looped)
        # A job that asks again for blank answers computes them.
        usable[here] = good & ~np.asarray(rows["blank"]) if wanted.retry_invalid else good
    return usable


def _least_tokens(detection: pa.Array) -> npt.NDArray[np.int64]:
    """Return the fewest tokens of an answer that each detection can end; more than any answer has without one."""
    encoded = detection.dictionary_encode()
    least = [_least(text) for text in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(least)).to_numpy(zero_copy_only=False)
    every: npt.NDArray[np.int64] = np.array([*least, np.iinfo(np.int64).max], np.int64)
    found: npt.NDArray[np.int64] = every[codes]
    return found


def _least(text: str) -> int:
    sizes, _, count = text.partition("x")
    return int(sizes.partition("-")[0]) * int(count)


def _equal_or_both_null(a: pa.Array, b: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.equal(a.fill_null(""), b.combine_chunks().fill_null("")))


def _is(rows: pa.Table, column: str, value: str) -> npt.NDArray[np.bool_]:
    if column not in rows.schema.names:
        return np.zeros(len(rows), np.bool_)
    return np.asarray(pc.fill_null(pc.equal(rows[column], value), False))


def _numbers(rows: pa.Table, column: str) -> npt.NDArray[Any]:
    return np.asarray(pc.fill_null(rows[column], -1)) if column in rows.schema.names else np.full(len(rows), -1)
