"""Datasets on a real S3 server: found, read in ranges, pinned by ETag, refused with a clear sentence."""

from __future__ import annotations

import io
import json
import socket
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import Dataset, InputChanged, check_unchanged, pin, s3_files, slices
from jobs.dataset.inspection import inspect
from jobs.dataset.reading import read_slice
from jobs.errors import Exit, InvalidInput, StoreError
from jobs.store.s3_client import S3Client
from tests.chaos.s3_proxy import Fault, Proxy, always, seeded
from tests.support.bounds import LOADED_S
from tests.support.s3 import S3Server, use


def parquet(first: int, rows: int, group: int = 10) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": range(first, first + rows)}), sink, row_group_size=group, write_page_checksum=True)
    return sink.getvalue()


def put(server: S3Server, bucket: str, **objects: bytes) -> None:
    for key, data in objects.items():
        server.client().put_object(Bucket=bucket, Key=key, Body=data)


def read(dataset: Dataset, max_rows: int = 16) -> list[int]:
    return [
        n for piece in slices(dataset, max_rows) for batch in read_slice(piece, ["n"]) for n in batch["n"].to_pylist()
    ]


@pytest.fixture
def bucket(s3_server: S3Server, s3_bucket: str) -> str:
    client = s3_server.client()
    for key, data in {
        "data/a.parquet": parquet(0, 25),
        "data/sub/b.parquet": parquet(25, 5),
        "data/_tmp/x.parquet": b"junk",
        "data/.hidden.parquet": b"junk",
        "data/README.md": b"hello",
        "data/": b"",
        "data-other/c.parquet": parquet(0, 3),
        "bad.parquet": b"not parquet at all",
        "lines.jsonl": b"\n".join(json.dumps({"n": i}).encode() for i in range(3000)),
    }.items():
        client.put_object(Bucket=s3_bucket, Key=key, Body=data)
    return s3_bucket


@pytest.mark.parametrize(
    ("path", "files", "rows"),
    [
        ("data/a.parquet", ["data/a.parquet"], 25),
        ("data", ["data/a.parquet", "data/sub/b.parquet"], 30),
        ("data/", ["data/a.parquet", "data/sub/b.parquet"], 30),
        ("data/*.parquet", ["data/a.parquet"], 25),
        ("data/**/*.parquet", ["data/a.parquet", "data/sub/b.parquet"], 30),
        ("data*/[bc].parquet", ["data-other/c.parquet"], 3),
        ("lines.jsonl", ["lines.jsonl"], 3000),
    ],
)
def test_objects_prefixes_and_globs(bucket: str, path: str, files: list[str], rows: int) -> None:
    dataset = inspect(f"s3://{bucket}/{path}")
    assert [file.uri for file in dataset.files] == [f"s3://{bucket}/{name}" for name in files]
    assert read(dataset) == list(range(rows))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nope", "nothing at"),
        ("data/*.nope", "No object matches"),
        ("bad.parquet", "bad.parquet is not a Parquet file"),
        ("data/sub/*.md", "No object matches"),
    ],
)
def test_bad_input(bucket: str, path: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        inspect(f"s3://{bucket}/{path}")
    assert caught.value.hint


def test_only_footers_are_read(bucket: str, s3_server: S3Server, s3_proxy: Proxy) -> None:
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"prompt": [f"{i} {'x' * i}" for i in range(6000)]}), sink, compression="none", use_dictionary=False
    )
    put(s3_server, bucket, **{"big.parquet": sink.getvalue()})
    dataset = inspect(f"s3://{bucket}/big.parquet")
    assert dataset.size_bytes > 16 * 2**20
    assert len([request for request in s3_proxy.requests if request.method == "GET"]) <= 3


def test_pinned_by_etag(bucket: str, s3_server: S3Server) -> None:
    uri = f"s3://{bucket}/data"
    dataset = inspect(uri)
    pinned = pin(dataset)
    etag = s3_server.client().head_object(Bucket=bucket, Key="data/a.parquet")["ETag"].strip('"')
    assert pinned[0].identity == f"etag:{etag}"
    check_unchanged(pinned, pin(inspect(uri)))
    put(s3_server, bucket, **{"data/a.parquet": parquet(1, 25)})
    with pytest.raises(InputChanged, match=r"a\.parquet has changed"):
        check_unchanged(pinned, pin(inspect(uri)))
    with pytest.raises(InputChanged, match=r"a\.parquet has changed"):
        read(dataset)
    s3_server.client().delete_object(Bucket=bucket, Key="data/a.parquet")
    with pytest.raises(InputChanged, match=r"a\.parquet has changed"):
        read(dataset)


def test_reads_survive_faults(bucket: str, s3_proxy: Proxy) -> None:
    s3_proxy.faults = seeded(11, 0.3)
    assert read(inspect(f"s3://{bucket}/data")) == list(range(30))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [(Fault(status=403, code="AccessDenied"), "denies access"), (Fault(status=500), "InternalError|500")],
)
def test_refusals_and_outages_are_the_stores_fault(
    bucket: str, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: Fault, sentence: str
) -> None:
    monkeypatch.setattr(s3_files, "_LOOK", S3Client(patience_s=1))
    s3_proxy.faults = always(fault)
    started = time.monotonic()
    with pytest.raises(StoreError, match=sentence) as caught:
        inspect(f"s3://{bucket}/data")
    assert time.monotonic() - started < 3 + LOADED_S
    assert caught.value.exit_code == Exit.UNREACHABLE
    assert caught.value.hint


def test_an_outage_while_reading_is_not_taken_for_damage(
    bucket: str, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_files, "_READ", S3Client(patience_s=1))
    for path in ("data", "lines.jsonl"):
        dataset = inspect(f"s3://{bucket}/{path}")
        s3_proxy.faults = always(Fault())
        with pytest.raises(StoreError, match="does not answer"):
            read(dataset)
        s3_proxy.faults = lambda _: None


def test_no_such_bucket(bucket: str) -> None:
    for path in ("x.parquet", "data/", "*.parquet"):
        with pytest.raises(StoreError, match="no such bucket"):
            inspect(f"s3://{bucket}-not/{path}")


def test_nobody_listens(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_files, "_LOOK", S3Client(patience_s=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(StoreError, match="does not answer"):
        inspect(f"s3://{bucket}/data")
