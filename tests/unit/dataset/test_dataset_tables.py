"""Directories whose files are not all that a table says: refused, with the way to read them."""

from __future__ import annotations

from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import inspect
from jobs.errors import InvalidInput

MARKS = {
    "a Delta table": ("_delta_log/00000000000000000000.json", "Name the table itself"),
    "an Iceberg table": ("metadata/00001-abc.metadata.json", "Name the table itself"),
    "a Hudi table": (".hoodie/hoodie.properties", "hudi"),
    "a Lance data set": ("_versions/1.manifest", "lance"),
    "a Paimon table": ("snapshot/snapshot-1", "paimon"),
    "the output of a Spark stream": ("_spark_metadata/0", "Spark"),
    "the output of a Spark job that has not ended well": ("_temporary/0/task/part-0.parquet", "Run that job"),
    "a job of this program that has not succeeded": ("_job/spec.json", "jobs results table results.parquet"),
    "a Hive ACID table": ("delta_0000001_0000001_0000/bucket_00000", "Hive"),
}


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a data set."""
    if request.param == "disk":
        return str(tmp_path)
    return f"s3://{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"


def put(root: str, name: str, data: bytes | None = None) -> None:
    if data is None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"prompt": ["a"]}), sink)
        data = sink.getvalue().to_pybytes()
    if root.startswith("s3://"):
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)
    else:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize("kind", MARKS)
def test_a_table_is_refused_from_outside_and_inside(root: str, kind: str) -> None:
    mark, tool = MARKS[kind]
    put(root, "table/data/part=1/a.parquet")
    put(root, "table/b.parquet")
    assert inspect(f"{root}/table").num_rows == 2
    put(root, f"table/{mark}", b"{}")
    readable = tool == "Name the table itself"  # its own address is tried in tests of its log
    for place in (root,) if readable else (root, f"{root}/table", f"{root}/table/"):
        with pytest.raises(InvalidInput, match=kind) as caught:
            inspect(place)
        assert tool in caught.value.hint
        assert "glob" in caught.value.hint
    if kind != "a Hive ACID table":
        for place in ("table/data", "table/data/part=1"):
            with pytest.raises(InvalidInput, match=f"is part of .*table, which is {kind}"):
                inspect(f"{root}/{place}")
    assert inspect(f"{root}/table/*.parquet").num_rows == 1, "a glob means what it says"
    assert inspect(f"{root}/table/data/part=1/a.parquet").num_rows == 1


def test_a_folder_of_changes_is_no_dataset(root: str) -> None:
    put(root, "table/delta_0000002_0000002/a.parquet")
    put(root, "table/base_0000001/a.parquet")
    for place in ("table", "table/base_0000001"):
        with pytest.raises(InvalidInput, match="a Hive ACID table"):
            inspect(f"{root}/{place}")


def test_the_results_of_a_job_that_has_succeeded_are_a_dataset(root: str) -> None:
    put(root, "jobs/one/_job/spec.json", b"{}")
    put(root, "jobs/one/results/part-00000.parquet")
    with pytest.raises(InvalidInput, match=r"jobs/one.* a job of this program that has not succeeded"):
        inspect(f"{root}/jobs")
    put(root, "jobs/one/_SUCCESS", b"{}")
    for place in ("jobs", "jobs/one", "jobs/one/results"):
        assert inspect(f"{root}/{place}").num_rows == 1


@pytest.mark.parametrize(
    "name",
    [
        "metadata/notes.json",
        "snapshot/a.parquet",
        "_versions/x.txt",
        "_old/_delta_log/0.json",
        "delta_1/a.parquet",
        "base_2024/a.parquet",
        "sub/delta_log/a.parquet",
    ],
)
def test_what_only_looks_like_a_log_is_read(root: str, name: str) -> None:
    put(root, "data/b.parquet")
    put(root, f"data/{name}")
    assert inspect(f"{root}/data").num_rows in (1, 2)


def test_a_link_into_a_table_is_part_of_it(tmp_path: Path) -> None:
    put(str(tmp_path), "table/part=1/a.parquet")
    put(str(tmp_path), "table/_delta_log/0.json", b"{}")
    (tmp_path / "link").symlink_to(tmp_path / "table" / "part=1")
    with pytest.raises(InvalidInput, match="a Delta table"):
        inspect(str(tmp_path / "link"))
