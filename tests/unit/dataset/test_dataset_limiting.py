"""A trial runs as many rows as asked for, always the same ones, and reads no more of the files than these need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs.dataset import count_rows, failures_of, inspect, portions, read_portion, resolve_columns
from jobs.dataset.failures import other_kinds, take_rows, with_failures, with_other_kinds
from jobs.models.encoding import BytesEncoder
from jobs.rows.prepare import RowPreparer
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    folder = tmp_path / "data"
    folder.mkdir()
    for start, stop in ((0, 130), (130, 131), (131, 500)):
        table = pa.table({"prompt": [f"p{n}" for n in range(start, stop)], "n": list(range(start, stop))})
        pq.write_table(table, folder / f"{start:03}.parquet", row_group_size=50)
    return str(folder)


def rows_of(uri: str, limit: int | None, seed: int | None = None, max_rows: int = 40) -> list[int]:
    spec, found = InputSpec(uri=uri, limit=limit, limit_seed=seed), []
    for portion in portions(inspect(uri), spec, max_rows):
        for batch, ids in read_portion(portion, ["n"]):
            assert batch["n"].to_pylist() == ids.tolist()
            found += ids.tolist()
    return found


@pytest.mark.parametrize("limit", [1, 49, 130, 131, 132, 499, 500, 9999, None])
def test_the_first_rows_are_the_first_rows(dataset: str, limit: int | None) -> None:
    assert rows_of(dataset, limit) == list(range(min(limit or 500, 500)))
    assert count_rows(inspect(dataset), InputSpec(uri=dataset, limit=limit)) == min(limit or 500, 500)


def test_rows_are_drawn_by_the_seed_alone(dataset: str) -> None:
    drawn = rows_of(dataset, 20, 7)
    assert drawn == rows_of(dataset, 20, 7, max_rows=500) == sorted(set(drawn))
    assert len(drawn) == 20
    assert drawn != rows_of(dataset, 20, 8)
    assert drawn != list(range(20))
    # A larger trial has the rows of a smaller one, so its results can be taken over.
    assert set(drawn) < set(rows_of(dataset, 21, 7))
    # The same in every version and on every machine: a plan that stands is made again from the seed.
    assert rows_of(dataset, 5, 2**63 - 1) == [39, 70, 116, 175, 420]
    found = inspect(dataset)
    many = [InputSpec(uri=dataset, limit=20, limit_seed=seed) for seed in range(60)]
    ids = [portion.row_ids for spec in many for portion in portions(found, spec) if portion.row_ids is not None]
    counts = np.histogram(np.concatenate(ids), 5, (0, 500))[0]
    assert counts.sum() == 1200
    assert counts.min() > 180  # of 240 each


def test_only_the_files_that_hold_rows_are_read(dataset: str) -> None:
    [portion] = portions(inspect(dataset), InputSpec(uri=dataset, limit=3))
    assert (portion.piece.num_rows, Path(portion.piece.source.uri).name) == (3, "000.parquet")
    Path(dataset, "131.parquet").write_bytes(b"")
    assert [ids.tolist() for _, ids in read_portion(portion, ["n"])] == [[0, 1, 2]]


def test_a_seed_needs_a_limit() -> None:
    with pytest.raises(ValidationError, match="add --limit"):
        InputSpec(uri="/d", limit_seed=1)


def test_what_is_attached_to_rows_goes_with_them() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [0, 1, 2, 3], "b": list("wxyz")})
    failures = {n: RowFailure(code=RowError.INVALID_TEXT, message=f"row {n}") for n in (1, 3)}
    batch = with_other_kinds(with_failures(batch, failures), {"b": {0: "int", 3: "bool"}})
    taken = take_rows(batch, np.array([2, 3]))
    assert taken["a"].to_pylist() == [2, 3]
    assert failures_of(taken) == {1: failures[3]}
    assert other_kinds(taken, "b") == {1: "bool"}
    assert failures_of(take_rows(batch, np.array([0, 2]))) == {}


def test_staged_rows_of_a_trial_have_the_ids_and_errors_of_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"prompt": 5 if n % 2 else f"p{n}"}) + "\n" for n in range(100)))
    spec = JobSpec(
        name="t",
        input=InputSpec(uri=str(path), limit=10, limit_seed=3),
        model=ModelSpec(path="builtin:bytes"),
        engine=EngineSpec(name="fake"),
    )
    data = inspect(str(path))
    preparer = RowPreparer(spec, resolve_columns(data.schema, spec.input), BytesEncoder(), 1000)
    tables = [
        preparer.prepare(batch, ids)
        for portion in portions(data, spec.input)
        for batch, ids in read_portion(portion, ["prompt"])
    ]
    rows = pa.concat_tables(tables).to_pylist()
    assert len(rows) == 10
    assert [row["error_code"] for row in rows] == ["INVALID_MESSAGES" if r["row_id"] % 2 else None for r in rows]
