"""CSV and TSV: read as spreadsheets and programs write it, or refused where it could mean two things."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import failures_of, resolve_columns, slices
from jobs.dataset.inspection import inspect
from jobs.dataset.reading import read_slice
from jobs.errors import InvalidInput
from schemas.codes import RowError
from schemas.spec import InputSpec
from tests.support.quick import examples


def rows_of(path: Path, max_rows: int = 8192, **options: Any) -> list[dict[str, Any]]:
    dataset = inspect(InputSpec(uri=str(path), **options))
    return [row for piece in slices(dataset, max_rows) for batch in read_slice(piece) for row in batch.to_pylist()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sheet.csv"


GERMAN = '"id";"prompt"\r\n"007";"Größe,\r\nin ""Metern"": 1,5"\r\n"8";\r\n'


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_spreadsheet_with_semicolons_and_line_ends_in_quotes(path: Path, mark: str) -> None:
    path.write_bytes((mark + GERMAN).encode())
    assert rows_of(path) == [{"id": "007", "prompt": 'Größe,\r\nin "Metern": 1,5'}, {"id": "8", "prompt": None}]


def test_other_encodings_are_told_or_marked_and_never_guessed(path: Path) -> None:
    path.write_bytes(GERMAN.encode("cp1252"))
    with pytest.raises(InvalidInput, match="is not UTF-8: line 2 is the first") as caught:
        inspect(str(path))
    assert "--csv-encoding cp1252" in caught.value.hint
    assert rows_of(path, csv_encoding="cp1252")[0]["prompt"].startswith("Größe")
    path.write_bytes(GERMAN.encode("utf-16"))
    assert rows_of(path)[0]["prompt"].startswith("Größe")
    path.write_bytes(GERMAN.encode("utf-16le"))
    with pytest.raises(InvalidInput, match="zero byte"):
        inspect(str(path))
    assert rows_of(path, csv_encoding="utf-16le")[0]["prompt"].startswith("Größe")
    path.write_bytes(("\ufeff" + GERMAN).encode())
    with pytest.raises(InvalidInput, match="not text in cp1252: it begins with the mark of UTF-8"):
        inspect(InputSpec(uri=str(path), csv_encoding="cp1252"))
    path.write_bytes("prompt\nGröße €\x81\n".encode("latin-1", "replace") + b"\x81\n")
    with pytest.raises(InvalidInput, match="not text in cp1252: about byte"):
        inspect(InputSpec(uri=str(path), csv_encoding="cp1252"))


def test_invalid_utf8_costs_its_row_where_utf8_was_told(path: Path) -> None:
    path.write_bytes(b"prompt\ngood\nb\xffd\n")
    [piece] = slices(inspect(InputSpec(uri=str(path), csv_encoding="utf-8")))
    [batch] = read_slice(piece)
    assert batch["prompt"][0].as_py() == "good"
    with pytest.raises(UnicodeDecodeError):
        batch["prompt"][1].as_py()


@pytest.mark.parametrize(
    ("text", "why", "option"),
    [
        ("a,b;c\n1,2;3\n", "a first line that ',' or ';' may delimit", "--csv-delimiter"),
        ("prompt\nhello, world\n", "has 2 fields where the header has 1, near line 2", "--csv-delimiter ','"),
        ("a,b\n1,2\n1\n", "has 1 fields where the header has 2, near line 3", "--csv-delimiter"),
        ('a,b\n"x"y,2\n', "a quote that does not fit near line 2", "--csv-escape"),
        ('a,b\n1,"x\n', "ends inside quotes near line 2", "--csv-escape"),
        ('a,b\n"x\\",y","z\\""\n', "ends inside quotes near line 2", "--csv-escape"),
        ('a,b\n"x\\",2\n3",4\n', "backslashes before quotes", "--csv-escape none"),
        ("a,a\n1,2\n", "two columns named 'a'", ""),
        ("a,prompt\r1,hi\r2,ho\r", "ends its lines with carriage returns alone", "tr "),
        ("a,prompt\r" + "1,hi\r" * 300_000, "ends its lines with carriage returns alone", "tr "),
        ("a" * 2**20 + ",b\n1,2\n", "a first line of more than 1,048,576 bytes", "names its columns"),
        ('sep="\na,b\n', "has 2 fields where the header has 1", "--csv-delimiter ','"),
    ],
)
def test_what_could_mean_two_things_is_refused(path: Path, text: str, why: str, option: str) -> None:
    path.write_text(text, newline="")
    with pytest.raises(InvalidInput) as caught:
        inspect(str(path))
    assert why in str(caught.value)
    assert option in caught.value.hint


@pytest.mark.parametrize("cut", range(4))
def test_a_long_cell_near_the_beginning_is_text_like_any_other(path: Path, cut: int) -> None:
    text = "x" * cut + "猫" * 400_000
    path.write_text(f"prompt\n{text}\nshort\n")
    assert rows_of(path) == [{"prompt": text}, {"prompt": "short"}]


def test_blank_lines_before_the_header_are_no_header(path: Path) -> None:
    path.write_text("\n\r\na,prompt\n1,hi\n")
    assert rows_of(path) == [{"a": "1", "prompt": "hi"}]


def test_a_header_that_is_not_of_the_encoding_is_refused(path: Path) -> None:
    for text in ("Größe,prompt\n1,hi\n", "sep=ß\na,prompt\n1,hi\n"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(InvalidInput, match="has a header that is not UTF-8") as caught:
            inspect(InputSpec(uri=str(path), csv_encoding="utf-8"))
        assert "\udcf6" not in str(caught.value)


def test_what_is_told_is_not_asked_again(path: Path) -> None:
    path.write_text("a,b;c\n1,2;3\n")
    assert rows_of(path, csv_delimiter=";") == [{"a,b": "1,2", "c": "3"}]
    path.write_text('a,b\n"x\\",y","z\\""\n')
    assert rows_of(path, csv_escape="\\") == [{"a": 'x",y', "b": 'z"'}]
    path.write_text('a,b\n"C:\\","y"\n')
    assert rows_of(path, csv_escape="none") == [{"a": "C:\\", "b": "y"}]


def test_a_line_that_does_not_fit_costs_its_row_where_the_delimiter_was_told(path: Path) -> None:
    path.write_text("prompt,n\na,1\nb\nc,3\n")
    [piece] = slices(inspect(InputSpec(uri=str(path), csv_delimiter=",")))
    [batch] = read_slice(piece)
    assert batch["prompt"].to_pylist() == ["a", None, "c"]
    assert {index: failure.code for index, failure in failures_of(batch).items()} == {1: RowError.INVALID_MESSAGES}


def test_tabs_by_name_unnamed_columns_and_excels_own_line(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("prompt\tn\nx, y; z\t\n")
    assert rows_of(tmp_path / "a.tsv") == [{"prompt": "x, y; z", "n": None}]
    (tmp_path / "b.csv").write_text("sep=|\nprompt|n, m||\nx|1||\n\n")
    assert rows_of(tmp_path / "b.csv") == [{"prompt": "x", "n, m": "1"}]


def test_numbers_for_the_engine_are_numbers(path: Path) -> None:
    path.write_text("prompt,max_tokens,id\nx,12,012\n")
    dataset = inspect(str(path))
    assert resolve_columns(dataset.schema, InputSpec(uri="x", keep=("id",))).max_tokens == "max_tokens"
    assert rows_of(path) == [{"prompt": "x", "max_tokens": "12", "id": "012"}]
    assert dataset.schema.field("id").type == pa.string()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(
    rows=st.lists(st.tuples(texts, texts), max_size=30),
    delimiter=st.sampled_from(",;|\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    packed=st.booleans(),
    cut=st.integers(1, 9),
)
@settings(max_examples=examples(60), deadline=None)
def test_what_a_program_writes_is_read_so_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    end: str,
    encoding: str,
    packed: bool,
    cut: int,
) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "other"), *rows])
    data = sink.getvalue().encode(encoding)
    path = tmp_path_factory.mktemp("csv") / f"a.csv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed else data)
    patch = pytest.MonkeyPatch()
    with patch.context():
        patch.setattr("jobs.dataset.records._BLOCK_ROWS", 3)
        try:
            found = rows_of(path, cut)
        except InvalidInput as error:
            assert "has no rows" in str(error) if not rows else "backslashes" in str(error)  # noqa: PT017
            return
        finally:
            patch.undo()
    assert [(row["prompt"], row["other"]) for row in found] == [(a or None, b or None) for a, b in rows]
