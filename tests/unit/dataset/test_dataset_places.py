"""Where tools put things: folders that are columns, keys of any spelling, files beside the data, several inputs."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import Dataset, inspect, read_slice, resolve_columns, slices
from jobs.errors import InvalidInput
from schemas.spec import InputSpec


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a data set."""
    if request.param == "disk":
        return str(tmp_path)
    return f"s3://{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"


def put(root: str, name: str, data: bytes | dict[str, list[Any]]) -> None:
    if isinstance(data, dict):
        sink = io.BytesIO()
        pq.write_table(pa.table(data), sink)
        data = sink.getvalue()
    if root.startswith("s3://"):
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)
    else:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def rows_of(dataset: Dataset, columns: list[str] | None = None) -> list[dict[str, Any]]:
    return [row for piece in slices(dataset) for batch in read_slice(piece, columns) for row in batch.to_pylist()]


def test_folders_are_typed_columns_with_decoded_values(root: str) -> None:
    for number, (lang, day, hour) in enumerate((("de", 1, "01"), ("x=y z%3A", 2, "02"), ("münchen", 3, "11"))):
        coded = lang.replace("%", "%25").replace("=", "%3D")
        put(root, f"t/lang={coded}/date=2026-03-0{day}/n={number - 1}/hour={hour}/a.parquet", {"prompt": [f"{number}"]})
    put(root, "t/lang=__HIVE_DEFAULT_PARTITION__/date=2026-03-04/n=7/hour=12/a.parquet", {"prompt": ["3"]})
    dataset = inspect(f"{root}/t")
    kinds = {field.name: field.type for field in dataset.schema}
    assert kinds == {
        "prompt": pa.string(),
        "lang": pa.string(),
        "date": pa.date32(),
        "n": pa.int64(),
        "hour": pa.string(),
    }
    found = sorted(rows_of(dataset), key=lambda row: row["prompt"])
    assert [row["lang"] for row in found] == ["de", "x=y z%3A", "münchen", None]
    assert [row["date"] for row in found] == [datetime.date(2026, 3, day) for day in (1, 2, 3, 4)]
    assert [row["n"] for row in found] == [-1, 0, 1, 7]
    assert [row["hour"] for row in found] == ["01", "02", "11", "12"]
    assert rows_of(dataset, ["lang", "n"]) == [{"lang": row["lang"], "n": row["n"]} for row in rows_of(dataset)]
    columns = resolve_columns(dataset.schema, InputSpec(uri="x", template="{{ lang }} {{ date }}", keep=("n",)))
    assert columns.needed == ("date", "lang", "n")


def test_the_folder_that_is_named_is_a_column_too_and_a_files_own_column_goes_first(root: str) -> None:
    put(root, "t/date=2026-03-01/k=1/a.parquet", {"prompt": ["a"], "k": [5]})
    put(root, "t/date=2026-03-01/k=2/a.parquet", {"prompt": ["b"]})
    for place in (f"{root}/t/date=2026-03-01", f"{root}/t/date=2026-03-01/", f"{root}/t/date=*/**/*.parquet"):
        day = datetime.date(2026, 3, 1)
        found = [(row["date"], row["k"]) for row in rows_of(inspect(place))]
        assert found == [(day, 5), (day, 2)]
    put(root, "t/date=2026-03-01/k=x/a.parquet", {"prompt": ["c"]})
    schema = inspect(f"{root}/t").schema
    with pytest.raises(InvalidInput, match=r"column 'k' is int64 in files, and string in the folders of .*k=2"):
        resolve_columns(schema, InputSpec(uri="x", keep=("k",)))
    resolve_columns(schema, InputSpec(uri="x"))


NAMES = ("with space.parquet", "a%3Ab.parquet", "a:b+c&d.parquet", "ü 漢.parquet", "k=v.parquet", "a#b?c.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_spelling(root: str, name: str) -> None:
    put(root, f"in [1]/{name}", {"prompt": ["x"]})
    for place in (f"{root}/in [1]/{name}", f"{root}/in [1]", f"{root}/in */*.parquet"):
        [file] = inspect(place).files
        assert file.uri == f"{root}/in [1]/{name}"
        assert file.source.constants == ()
        assert rows_of(inspect(place)) == [{"prompt": "x"}]


def test_what_is_left_out_is_said_once(root: str) -> None:
    put(root, "t/a.parquet", {"prompt": ["x"]})
    for name in ("_SUCCESS", ".a.parquet.crc", "empty.parquet", "notes.txt", "copy.csv", "dataset_infos.json"):
        put(root, f"t/{name}", b"" if name in ("_SUCCESS", "empty.parquet") else b"x,y\n")
    dataset = inspect(f"{root}/t")
    assert [file.uri for file in dataset.files] == [f"{root}/t/a.parquet"]
    said = dataset.left_out.sentence() or ""
    assert "1 empty (empty.parquet)" in said
    assert "2 with a name that starts with _ or ." in said
    assert "3 of another kind than the data" in said
    assert inspect(f"{root}/t/a.parquet").left_out.sentence() is None
    put(root, "none/empty.parquet", b"")
    with pytest.raises(InvalidInput, match=r"no file of data; it holds empty\.parquet, which is empty"):
        inspect(f"{root}/none")


def test_splits_that_are_read_together_are_said(root: str) -> None:
    for split in ("test", "train"):
        put(root, f"hub/data/{split}-00000-of-00001.parquet", {"prompt": [split]})
    dataset = inspect(f"{root}/hub")
    assert dataset.num_rows == 2
    assert "The splits test and train are one dataset here" in (dataset.left_out.sentence() or "")
    one = inspect(f"{root}/hub/data/train-*")
    assert (one.num_rows, one.left_out.sentence()) == (1, None)


def test_several_inputs_are_one_dataset_in_their_order(root: str) -> None:
    put(root, "b/x.parquet", {"prompt": ["b1"], "n": [1]})
    put(root, "b/y.parquet", {"prompt": ["b2"]})
    put(root, "a.parquet", {"prompt": ["a"]})
    given = InputSpec(uri=f"{root}/b/*.parquet", more_uris=(f"{root}/a.parquet",))
    assert [row["prompt"] for row in rows_of(inspect(given))] == ["b1", "b2", "a"]
    with pytest.raises(InvalidInput, match=r"b/x\.parquet is in two of the inputs"):
        inspect(InputSpec(uri=f"{root}/b", more_uris=(f"{root}/b/x.parquet",)))
    put(root, "c.csv", b"prompt\nc\n")
    with pytest.raises(InvalidInput, match=r"mixes kinds of files; .*c\.csv differs"):
        inspect(InputSpec(uri=f"{root}/b", more_uris=(f"{root}/c.csv",)))


@pytest.mark.parametrize(
    ("uri", "how"),
    [
        ("hf://spaces/a/b", "hf://datasets/ORGANISATION/NAME"),
        ("ftp://host/x", "s3://bucket/prefix"),
    ],
)
def test_other_stores_are_refused_with_what_to_do(uri: str, how: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inspect(uri)
    assert how in caught.value.hint
