"""Files that other tools read back: every cell, every type, and never half a file."""

from __future__ import annotations

import csv
import gc
import io
import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import UsageError
from jobs.results.export import write_results
from jobs.results.formats import FileFormat, format_of
from jobs.results.targets import replacing
from tests.unit.results.ledgers import result_rows

ODD = pa.table(
    {
        "row_id": [0, 1],
        "at": pa.array([datetime(2026, 3, 1, 2, tzinfo=UTC), None], pa.timestamp("ns", "UTC")),
        "day": [date(2026, 3, 1), None],
        "price": [Decimal("1.50"), None],
        "score": [math.nan, -math.inf],
        "nested": [[{"logprob": -math.inf, "text": "ü"}], []],
        "pairs": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
        "blob": [b"\xff\x00", None],
        "nothing": pa.nulls(2),
        "flag": [True, None],
        "text": ["", None],
    }
)


def written(table: pa.Table, form: FileFormat, pieces: int = 1) -> bytes:
    sink = io.BytesIO()
    size = max(1, math.ceil(table.num_rows / pieces))
    tables = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    assert write_results(tables, table.schema, sink, form) == table.num_rows
    return sink.getvalue()


def plain(table: pa.Table) -> list[dict[str, object]]:
    """The rows as JSON has them, for columns that JSON can hold."""
    return [json.loads(json.dumps(row)) for row in table.drop_columns("blob").to_pylist()]


def test_parquet_is_the_same_table_with_checksums() -> None:
    table = result_rows(range(50))
    data = written(table, FileFormat.PARQUET, pieces=25)
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    assert file.read().equals(table)
    assert file.metadata.num_row_groups == 1, "many small tables must not become many small row groups"
    broken = bytearray(data)
    broken[100] ^= 1
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(io.BytesIO(broken), page_checksum_verification=True)


def test_json_lines() -> None:
    table = result_rows(range(50))
    lines = written(table, FileFormat.JSONL, pieces=3).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [{k: v for k, v in row.items() if k != "blob"} for row in rows] == plain(table)


@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_json_array(num_rows: int) -> None:
    table = result_rows(range(num_rows))
    assert [row["row_id"] for row in json.loads(written(table, FileFormat.JSON, pieces=2))] == list(range(num_rows))


def test_csv_reads_back_with_lists_as_json() -> None:
    table = result_rows(range(50))
    rows = list(csv.DictReader(io.StringIO(written(table, FileFormat.CSV, pieces=3).decode(), newline="")))
    assert list(rows[0]) == table.schema.names
    assert [json.loads(row["tags"]) for row in rows] == table["tags"].to_pylist()
    assert [row["generated_text"] or None for row in rows] == table["generated_text"].to_pylist()
    assert [int(row["row_id"]) for row in rows] == list(range(50))


def test_odd_values_in_json() -> None:
    first, second = (json.loads(line) for line in written(ODD, FileFormat.JSONL).splitlines())
    assert first == {
        "row_id": 0,
        "at": "2026-03-01T02:00:00+00:00",
        "day": "2026-03-01",
        "price": "1.50",
        "score": None,
        "nested": [{"logprob": None, "text": "ü"}],
        "pairs": [["a", 1]],
        "blob": "/wA=",
        "nothing": None,
        "flag": True,
        "text": "",
    }
    assert {key for key, value in second.items() if value is not None} == {"row_id", "nested"}


def test_odd_values_in_csv() -> None:
    text = written(ODD, FileFormat.CSV).decode()
    row = next(csv.DictReader(io.StringIO(text)))
    assert row["at"] == "2026-03-01T02:00:00+00:00"
    assert row["price"] == "1.50"
    assert row["blob"] == "/wA="
    assert json.loads(row["nested"]) == [{"logprob": None, "text": "ü"}]
    assert text.splitlines()[1].endswith(',true,""'), "an empty text is not null"
    assert text.splitlines()[2].endswith(",,"), "null is an empty field"


@pytest.mark.parametrize("form", sorted(set(FileFormat) - {FileFormat.OPENAI}))
def test_no_rows_at_all_is_still_a_file(form: FileFormat) -> None:
    schema = result_rows([]).schema
    sink = io.BytesIO()
    assert write_results([], schema, sink, form) == 0
    expected = {FileFormat.JSONL: b"", FileFormat.JSON: b"[]\n"}
    if form in expected:
        assert sink.getvalue() == expected[form]
    elif form is FileFormat.PARQUET:
        assert pq.read_table(sink).schema == schema
    else:
        assert sink.getvalue().startswith(b'"row_id","custom_id"')


def test_formats_by_name() -> None:
    names = ("a.parquet", "b.CSV", "c.jsonl", "d.json", "e.ndjson")
    assert [format_of(Path(name)).value for name in names] == ["parquet", "csv", "jsonl", "json", "jsonl"]
    with pytest.raises(UsageError, match=r"a\.txt"):
        format_of(Path("a.txt"))


def test_a_failure_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_keeps_pointing_at_the_file(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    link.symlink_to(real)
    with replacing(link) as file:
        file.write(b"x")
    assert link.is_symlink()
    assert real.read_bytes() == b"x"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "out.csv"):
        with pytest.raises(UsageError, match=str(path)), replacing(path):
            pass


def test_a_device_is_written_to_as_it_is() -> None:
    with replacing(Path("/dev/null")) as file:
        file.write(b"gone")
    assert not Path("/dev/null").is_file()


def test_a_pipe_whose_reader_leaves_is_not_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def write() -> None:
        with replacing(path) as file:
            os.close(reader)
            file.write(b"x" * 100_000)

    with pytest.raises(BrokenPipeError):
        write()


@pytest.mark.parametrize("form", [each for each in FileFormat if each is not FileFormat.OPENAI])
def test_what_is_broken_off_does_not_look_whole_and_says_nothing_more(
    form: FileFormat, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def tables() -> Iterator[pa.Table]:
        yield result_rows(range(40_000))
        raise UsageError("The second shard is damaged.")

    out = tmp_path / "out"
    with pytest.raises(UsageError), open(out, "wb") as sink:
        write_results(tables(), result_rows([0]).schema, sink, form)
    gc.collect()
    assert capfd.readouterr().err == ""
    data = out.read_bytes()
    assert not data.endswith((b"PAR1", b"]\n"))
    assert data.startswith(b"PAR1") == (form is FileFormat.PARQUET)
