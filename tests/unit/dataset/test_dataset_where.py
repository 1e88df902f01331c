"""`--where`: the rows that a job runs, chosen by their columns; what cannot match is not read."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import count_rows, inspect, portions, read_portion
from jobs.dataset.inspection import inspect as look_at
from jobs.dataset.matching import matching_rows
from jobs.dataset.reading import read_slice
from jobs.errors import InvalidInput, UsageError
from schemas.spec import InputSpec
from tests.support.quick import examples


def rows_of(spec: InputSpec) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows that a job runs, with their ids."""
    dataset = inspect(spec)
    found = [
        (int(row_id), row)
        for portion in portions(dataset, spec, max_rows=7)
        for batch, ids in read_portion(portion)
        for row_id, row in zip(ids, batch.to_pylist(), strict=True)
    ]
    assert len(found) == count_rows(dataset, spec)
    return found


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv"])
def test_row_ids_stay_places_in_the_dataset(tmp_path: Path, name: str) -> None:
    table = pa.table({"prompt": [f"p{n}" for n in range(40)], "lang": ["de", "en", None, "fr"] * 10})
    path = tmp_path / name
    match name:
        case "a.parquet":
            pq.write_table(table, path, row_group_size=9)
        case "a.jsonl":
            table.to_pandas().to_json(path, orient="records", lines=True)
        case _:
            path.write_text("prompt,lang\n" + "".join(f"{r['prompt']},{r['lang'] or ''}\n" for r in table.to_pylist()))
    for where, wanted in (
        (("lang=de",), range(0, 40, 4)),
        (("lang!=de", "lang!="), [n for n in range(40) if n % 4 in (1, 3)]),
        (("lang=", "prompt>p3"), [n for n in range(2, 40, 4) if f"p{n}" > "p3"]),
    ):
        found = rows_of(InputSpec(uri=str(path), where=where))
        assert [row_id for row_id, _ in found] == list(wanted)
        assert [row["prompt"] for _, row in found] == [f"p{n}" for n in wanted]
    few = rows_of(InputSpec(uri=str(path), where=("lang=de",), limit=3))
    assert [row_id for row_id, _ in few] == [0, 4, 8]
    drawn = [rows_of(InputSpec(uri=str(path), where=("lang=de",), limit=n, limit_seed=5)) for n in (3, 6)]
    ids = [{row_id for row_id, _ in rows} for rows in drawn]
    assert ids[0] < ids[1] <= set(range(0, 40, 4))


numbers = st.one_of(st.none(), st.integers(-3, 3))


@given(
    values=st.lists(numbers, min_size=1, max_size=40),
    operator=st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    bound=st.integers(-4, 4),
    kind=st.sampled_from([pa.int8(), pa.int64(), pa.float64(), pa.date32(), pa.string()]),
    group=st.integers(1, 9),
)
@settings(max_examples=examples(100), deadline=None)
def test_conditions_mean_the_same_with_statistics_and_without(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[int | None],
    operator: str,
    bound: int,
    kind: pa.DataType,
    group: int,
) -> None:
    def value(n: int) -> Any:
        if kind == pa.date32():
            return datetime.date(2026, 1, 10 + n)
        return chr(ord("m") + n) if kind == pa.string() else n

    folder = tmp_path_factory.mktemp("where")
    table = pa.table({"c": pa.array([None if n is None else value(n) for n in values], kind)})
    where = (f"c{operator}{value(bound)}",)
    found = []
    for name, with_statistics in (("a.parquet", True), ("b.parquet", False)):
        pq.write_table(table, folder / name, row_group_size=group, write_statistics=with_statistics)
        dataset = look_at(InputSpec(uri=str(folder / name), where=where))
        try:
            found.append(matching_rows(dataset, where, read_slice).tolist())
        except InvalidInput as error:
            assert "No row of" in str(error)  # noqa: PT017
            found.append([])
    compare = {
        "=": lambda n: n == bound,
        "!=": lambda n: n != bound,
        "<": lambda n: n is not None and n < bound,
        "<=": lambda n: n is not None and n <= bound,
        ">": lambda n: n is not None and n > bound,
        ">=": lambda n: n is not None and n >= bound,
    }[operator]
    assert found[0] == found[1] == [index for index, n in enumerate(values) if compare(n)]


def test_numbers_that_are_text_are_compared_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,n\na,5\nb,10\nc,-3\nd,\ne,7.5\nf, 100\n")
    for where, wanted in (("n>=7", "bef"), ("n<7", "ac"), ("n>7.5", "bf"), ("n<=1e1", "abce"), ("n=10", "b")):
        assert "".join(row["prompt"] for _, row in rows_of(InputSpec(uri=str(path), where=(where,)))) == wanted
    path.write_text("prompt;n\na;49,90\nb;7\n")
    with pytest.raises(UsageError, match="text that is no number") as caught:
        rows_of(InputSpec(uri=str(path), where=("n>20",)))
    assert "decimal point" in caught.value.hint
    assert "49" not in str(caught.value)
    path.write_text("prompt,day\na,2026-03-01\nb,2026-02-28\n")
    assert [row["prompt"] for _, row in rows_of(InputSpec(uri=str(path), where=("day>=2026-03-01",)))] == ["a"]
    pq.write_table(
        pa.table({"prompt": ["a", "b", "c"], "n": ["9", "10", "11"]}), tmp_path / "a.parquet", row_group_size=1
    )
    found = rows_of(InputSpec(uri=str(tmp_path / "a.parquet"), where=("n>9",)))
    assert [row["prompt"] for _, row in found] == ["b", "c"], "statistics of text say nothing about numbers"


def test_what_cannot_match_is_not_read(tmp_path: Path) -> None:
    read: list[tuple[str, range]] = []

    def counted(piece: Any, names: Any) -> Any:
        read.append((Path(piece.source.uri).parent.name, piece.blocks))
        return read_slice(piece, names)

    for day in (1, 2, 3):
        folder = tmp_path / f"date=2026-03-0{day}"
        folder.mkdir()
        table = pa.table({"prompt": ["x"] * 200_000, "n": range(200_000)})
        pq.write_table(table, folder / "a.parquet", row_group_size=70_000)
    where = ("date>=2026-03-02", "n>=150000", "date!=2026-03-03")
    dataset = look_at(InputSpec(uri=str(tmp_path), where=where))
    found = matching_rows(dataset, where, counted)
    assert found.tolist() == list(range(350_000, 400_000))
    assert read == [("date=2026-03-02", range(2, 3))]
    read.clear()
    assert len(matching_rows(dataset, ("date=2026-03-01",), counted)) == 200_000
    assert not read


def test_a_row_that_cannot_be_read_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "n": 1}\n{"prompt": "broken\n{"prompt": "c", "n": 3}\n')
    assert [row_id for row_id, _ in rows_of(InputSpec(uri=str(path), where=("n=3",)))] == [1, 2]


@pytest.mark.parametrize(
    ("where", "kind", "why"),
    [
        ("lang", UsageError, "is not a condition"),
        ("langs=de", UsageError, "The dataset has no column 'langs'; did you mean `lang`"),
        ("n=x", UsageError, "'x' is not a value of column n"),
        ("n=99", InvalidInput, r"No row of .*a\.parquet meets 'n=99'"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(tmp_path: Path, where: str, kind: type[Exception], why: str) -> None:
    pq.write_table(pa.table({"prompt": ["x"], "lang": ["de"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(kind, match=why):
        inspect(InputSpec(uri=f"{tmp_path}/a.parquet", where=(where,)))


def test_ids_are_of_the_type_that_planning_takes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["x", "y"]}), tmp_path / "a.parquet")
    dataset = inspect(InputSpec(uri=f"{tmp_path}/a.parquet", where=("prompt=y",)))
    assert dataset.matching is not None
    assert dataset.matching.dtype == np.int64
