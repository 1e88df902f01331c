"""Delta and Iceberg tables: read at a version as their libraries read them, or refused where files say other things."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset import Dataset, InputChanged, inspect, read_slice, slices
from jobs.dataset.table_logs import Wanted, plain_address
from jobs.errors import InvalidInput, MissingPackage, StoreError
from schemas.spec import InputSpec
from tests.support.s3 import S3Server

ONE = pa.table({"prompt": ["a", "b", None], "lang": ["x y", "ü=1%", None], "n": [1, 2, 3]})
TWO = pa.table({"prompt": ["c"], "lang": ["de"], "n": [4]})


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    rows = [row for piece in slices(dataset) for b in read_slice(piece) for row in b.to_pylist()]
    return sorted(rows, key=lambda row: row["n"])


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a table."""
    if request.param == "disk":
        return f"{tmp_path}/t"
    return f"s3://{request.getfixturevalue('s3_bucket')}/{tmp_path.name}/t"


def delta(root: str) -> Any:
    """Write a Delta table of two versions."""
    deltalake = pytest.importorskip("deltalake")
    options = None
    if root.startswith("s3://"):
        from jobs.dataset.delta import _storage_options

        options = _storage_options()
    deltalake.write_deltalake(root, ONE, partition_by=["lang"], storage_options=options)
    deltalake.write_deltalake(root, TWO, mode="append", storage_options=options)
    return deltalake.DeltaTable(root, storage_options=options)


def iceberg(root: str, catalog_dir: Path) -> Any:
    """Write an Iceberg table of two snapshots."""
    pytest.importorskip("pyiceberg")
    pytest.importorskip("sqlalchemy")
    from pyiceberg.catalog.sql import SqlCatalog

    from jobs.dataset.iceberg import _properties

    place = root if root.startswith("s3://") else f"file://{root}"
    properties = _properties(place)
    catalog = SqlCatalog("test", uri=f"sqlite:///{catalog_dir}/catalog.db", warehouse=place, **properties)
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", schema=ONE.schema, location=place)
    with table.update_spec() as spec:
        spec.add_identity("lang")
    table.append(ONE)
    table.append(TWO)
    return table


def test_a_delta_table_at_its_newest_version_and_at_an_older_one(root: str) -> None:
    table = delta(root)
    wanted = [*ONE.to_pylist(), *TWO.to_pylist()]
    dataset = inspect(root)
    assert rows_of(dataset) == wanted
    assert [(each.uri, each.format, each.version) for each in dataset.tables] == [(root, "delta", "1")]
    assert rows_of(inspect(InputSpec(uri=f"{root}/", at="0"))) == wanted[:3]
    table.delete("n = 4")  # the file stays: only the log says that it does not count
    assert rows_of(inspect(root)) == wanted[:3]
    assert rows_of(inspect(root, dataset.tables)) == wanted  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="cannot be read at 99"):
        inspect(InputSpec(uri=root, at="99"))


def test_an_iceberg_table_at_its_newest_snapshot_and_at_an_older_one(root: str, tmp_path: Path) -> None:
    table = iceberg(root, tmp_path)
    wanted = [*ONE.to_pylist(), *TWO.to_pylist()]
    dataset = inspect(root)
    assert rows_of(dataset) == wanted
    [pinned] = dataset.tables
    snapshots = [str(snapshot.snapshot_id) for snapshot in table.metadata.snapshots]
    assert (pinned.format, pinned.version) == ("iceberg", snapshots[-1])
    assert rows_of(inspect(InputSpec(uri=root, at=snapshots[0]))) == wanted[:3]
    table.overwrite(TWO)
    assert rows_of(inspect(InputSpec(uri=root, at="main"))) == TWO.to_pylist()
    assert rows_of(inspect(root, (pinned,))) == wanted
    with pytest.raises(InvalidInput, match="no snapshot, branch or tag '5'") as caught:
        inspect(InputSpec(uri=root, at="5"))
    assert snapshots[-1] in caught.value.hint


def test_what_the_files_of_a_delta_table_do_not_say_is_refused(tmp_path: Path) -> None:
    delta(f"{tmp_path}/t")
    log = tmp_path / "t" / "_delta_log"
    for line, why in (
        ({"metaData": {"delta.columnMapping.mode": "name"}}, "column mapping"),
        ({"add": "../../elsewhere.parquet"}, "names a file outside of it"),
        ({"add": "/etc/elsewhere.parquet"}, "names a file outside of it"),
    ):
        entry = log / f"{2:020}.json"
        first = [json.loads(text) for text in (log / f"{0:020}.json").read_text().splitlines()]
        if "add" in line:
            action = next(each for each in first if "add" in each)
            action["add"]["path"] = line["add"]
            entry.write_text(json.dumps(action))
        else:
            action = next(each for each in first if "metaData" in each)
            action["metaData"]["configuration"] = line["metaData"]
            entry.write_text(json.dumps(action))
        with pytest.raises(InvalidInput, match=why):
            inspect(f"{tmp_path}/t")
        entry.unlink()
    file = next(Path(file.uri) for file in inspect(f"{tmp_path}/t").files)
    file.unlink()
    with pytest.raises(InputChanged, match="is missing"):
        inspect(f"{tmp_path}/t")


def test_what_the_files_of_an_iceberg_table_do_not_say_is_refused(tmp_path: Path) -> None:
    table = iceberg(f"{tmp_path}/t", tmp_path)
    newest = table.metadata_location.removeprefix("file://")
    twin = Path(newest).with_name(Path(newest).name.replace("-", "-twin", 1))
    twin.write_bytes(Path(newest).read_bytes())
    with pytest.raises(InvalidInput, match="two newest metadata files") as caught:
        inspect(f"{tmp_path}/t")
    assert "/metadata/" in caught.value.hint
    assert rows_of(inspect(newest)) == rows_of(inspect(str(twin)))
    twin.unlink()
    with table.update_schema() as update:
        update.rename_column("n", "number")
    with pytest.raises(InvalidInput, match="renamed or made anew"):
        inspect(f"{tmp_path}/t")


def test_a_damaged_log_is_one_sentence(tmp_path: Path) -> None:
    delta(f"{tmp_path}/t")
    iceberg(f"{tmp_path}/i", tmp_path)
    for path in (*tmp_path.glob("t/_delta_log/*.json"), *tmp_path.glob("i/metadata/*.json")):
        path.write_bytes(b"{\xff")
    for place, name in (("t", "Delta"), ("i", "Iceberg")):
        with pytest.raises(InvalidInput, match=f"The {name} table .* cannot be read"):
            inspect(f"{tmp_path}/{place}")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("s3a://b/t/a.parquet", "s3://b/t/a.parquet"),
        ("s3n://b/t/a.parquet", "s3://b/t/a.parquet"),
        ("file:/t/a.parquet", "/t/a.parquet"),
        ("file:///t/a.parquet", "/t/a.parquet"),
        ("k=s3a://x/a.parquet", "k=s3a://x/a.parquet"),
        ("/t/file:/a.parquet", "/t/file:/a.parquet"),
    ],
)
def test_addresses_as_hadoop_writes_them(written: str, plain: str) -> None:
    assert plain_address(written) == plain


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_store_that_does_not_answer_is_no_fault_of_the_table(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from jobs.dataset import delta as delta_tables
    from jobs.dataset import iceberg as iceberg_tables

    pytest.importorskip("deltalake" if kind == "delta" else "pyiceberg")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    root = f"s3://{s3_bucket}/t"
    metadata = () if kind == "delta" else (f"{root}/metadata/0.metadata.json",)
    with pytest.raises(StoreError):
        (delta_tables if kind == "delta" else iceberg_tables).open_table(root, Wanted(), *metadata)


def test_a_version_of_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(InvalidInput, match="the input is none"):
        inspect(InputSpec(uri=f"{tmp_path}/a.jsonl", at="3"))


@pytest.mark.parametrize(
    ("mark", "module", "extra"),
    [("_delta_log/0.json", "deltalake", "delta"), ("metadata/0.metadata.json", "pyiceberg.table", "iceberg")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, module: str, extra: str
) -> None:
    from jobs.dataset.inspection import inspect as look_at

    (tmp_path / mark).parent.mkdir()
    (tmp_path / mark).write_text("{}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackage, match=module.partition(".")[0]) as caught:
        look_at(str(tmp_path))
    assert f"nightbatch[{extra}]" in caught.value.hint
