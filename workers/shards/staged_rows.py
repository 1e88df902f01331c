"""Staged rows as the engine and the results see them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.fingerprints import first_of_equal
from jobs.rows.windows import num_read_tokens
from schemas.sampling import Sampling
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT
from workers.shards.outputs import Row


def valid_rows(staged: pa.Table, spec: JobSpec) -> list[Row]:
    """Return the rows that go to the engine, in the order of work: valid rows that repeat no other row of the shard.

    Their token ids are views of the table: as Python integers they would take nine times the memory.
    """
    repeated = repeats(staged, spec)
    return [
        Row(
            row_id=row_id,
            token_ids=tokens,
            sampling=sampling,
            choices=choices or (),
            in_parts=spec.task == "perplexity",
        )
        for row_id, tokens, sampling, choices, error in zip(
            staged["row_id"].to_pylist(),
            token_ids(staged),
            samplings(staged, spec.sampling),
            _column(staged, "choice_token_ids"),
            staged["error_code"].to_pylist(),
            strict=True,
        )
        if error is None and row_id not in repeated
    ]


def repeats(staged: pa.Table, spec: JobSpec) -> dict[int, int]:
    """Map rows of the shard that reuse another row's result: row id to the id of the row that is computed."""
    if FINGERPRINT.name not in staged.schema.names:
        return {}  # staged by an older version
    known = [spec.scores or sampling.deterministic for sampling in samplings(staged, spec.sampling)]
    table = staged.select(["row_id", FINGERPRINT.name]).filter(pa.array(known, pa.bool_())).sort_by("row_id")
    row_ids = table["row_id"].to_numpy()
    first = first_of_equal(table[FINGERPRINT.name].combine_chunks())
    later = np.flatnonzero(first != np.arange(len(first)))
    return dict(zip(row_ids[later].tolist(), row_ids[first[later]].tolist(), strict=True))


def samplings(staged: pa.Table, defaults: Sampling) -> list[Sampling]:
    """Return each row's sampling values."""
    known: dict[str | None, Sampling] = {None: defaults}
    found = []
    for text in staged["sampling"].to_pylist():
        if text not in known:
            known[text] = Sampling.from_json(text.encode())
        found.append(known[text])
    return found


def num_input_tokens(staged: pa.Table, spec: JobSpec) -> list[int]:
    """Count the tokens that an engine reads of each row: those of its prompt and of what is scored."""
    lengths = pc.list_value_length(staged["token_ids"]).to_pylist()
    choices = [[len(one) for one in of or ()] for of in _column(staged, "choice_token_ids")]
    if spec.task == "perplexity":
        return [num_read_tokens(of) for of in choices]
    return [length + sum(of) for length, of in zip(lengths, choices, strict=True)]


def token_ids(staged: pa.Table) -> Iterator[npt.NDArray[np.int32]]:
    """Yield each row's token ids without copying them."""
    for chunk in staged["token_ids"].chunks:
        tokens, bounds = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        yield from (tokens[start:stop] for start, stop in pairwise(bounds))


def _column(staged: pa.Table, name: str) -> list[Any]:
    return staged[name].to_pylist() if name in staged.schema.names else [None] * len(staged)
