"""Datasets in Google's and Azure's object stores: found, read and pinned like those on S3."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.buckets import check_bucket
from jobs.dataset import InputChanged, check_unchanged, inspect, pin, read_slice, slices
from jobs.dataset.finding import find_sources
from jobs.dataset.sources import InputGone
from jobs.errors import InvalidInput, MissingInput, MissingPackage, StoreError, UsageError
from schemas.spec import InputSpec
from tests.support.clouds import Cloud, azurite, use_azure, use_google
from tests.support.s3 import S3Server


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurite(tmp_path_factory.mktemp("azurite")) as endpoint:
        yield endpoint


@pytest.fixture(params=["google", "azure"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    pytest.importorskip("obstore")
    if request.param == "google":
        server: S3Server = request.getfixturevalue("s3_server")
        return use_google(monkeypatch, server)
    return use_azure(monkeypatch, request.getfixturevalue("azure"))


def parquet(*numbers: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": [str(n) for n in numbers], "n": numbers}), sink)
    return sink.getvalue()


def rows_of(given: Any) -> list[int]:
    dataset = given if not isinstance(given, str) else inspect(given)
    return [row["n"] for piece in slices(dataset) for batch in read_slice(piece) for row in batch.to_pylist()]


def test_files_folders_and_globs(cloud: Cloud) -> None:
    for key, data in {
        "d/date=2026-03-01/x y%3A.parquet": parquet(1, 2),
        "d/date=2026-03-02/ü=1.parquet": parquet(3),
        "d/_SUCCESS": b"",
        "d/date=2026-03-02/.part.crc": b"x",
        "dd/other.parquet": parquet(9),
    }.items():
        cloud.put(key, data)
    dataset = inspect(f"{cloud.root}/d/")
    assert rows_of(dataset) == [1, 2, 3]
    assert dataset.schema.field("date").type == pa.date32()
    assert [file.uri for file in dataset.files] == [
        f"{cloud.root}/d/date=2026-03-01/x y%3A.parquet",
        f"{cloud.root}/d/date=2026-03-02/ü=1.parquet",
    ]
    assert rows_of(f"{cloud.root}/d/date=2026-03-01/x y%3A.parquet") == [1, 2]
    assert rows_of(f"{cloud.root}/d*/**/o*.parquet") == [9]
    assert rows_of(f"{cloud.root}/d/*/ü*.parquet") == [3]
    assert rows_of(inspect(InputSpec(uri=f"{cloud.root}/dd", more_uris=(f"{cloud.root}/d",)))) == [9, 1, 2, 3]
    with pytest.raises(MissingInput, match="There is nothing at"):
        inspect(f"{cloud.root}/nothing/")
    with pytest.raises(MissingInput, match="There is nothing at"):
        inspect(f"{cloud.root}not/d/")


def test_text_that_is_compressed_and_large(cloud: Cloud) -> None:
    lines = b"".join(b'{"prompt": "%0150d", "n": %d}\n' % (n, n) for n in range(30_000))
    cloud.put("a.jsonl.gz", gzip.compress(lines))
    cloud.put("b.jsonl", lines)  # more than a buffer
    assert rows_of(f"{cloud.root}/a.jsonl.gz") == rows_of(f"{cloud.root}/b.jsonl") == [*range(30_000)]


def test_one_version_is_read_or_none(cloud: Cloud) -> None:
    cloud.put("d/a.parquet", parquet(*range(50_000)))
    dataset = inspect(f"{cloud.root}/d")
    pinned = pin(dataset)
    assert pinned[0].identity.startswith("etag:")
    assert pinned == pin(inspect(f"{cloud.root}/d"))
    cloud.put("d/a.parquet", parquet(*range(1, 50_001)))
    with pytest.raises(InputChanged, match="has changed since it was looked at"):
        rows_of(dataset)
    with pytest.raises(InputChanged, match="has changed"):
        check_unchanged(pinned, pin(inspect(f"{cloud.root}/d")))
    cloud.delete("d/a.parquet")
    with pytest.raises(InputGone, match="it is gone"):
        rows_of(dataset)


def test_delta_tables_there(cloud: Cloud) -> None:
    deltalake = pytest.importorskip("deltalake")
    if cloud.server is not None:
        pytest.skip("the server of the tests on S3 takes no unsigned writes")
    rows = pa.table({"prompt": ["a", "b"], "n": [1, 2]})
    deltalake.write_deltalake(f"{cloud.root}/t", rows)
    deltalake.write_deltalake(f"{cloud.root}/t", rows, mode="append")
    dataset = inspect(f"{cloud.root}/t")
    assert sorted(rows_of(dataset)) == [1, 1, 2, 2]
    assert [(table.format, table.version) for table in dataset.tables] == [("delta", "1")]
    assert rows_of(inspect(InputSpec(uri=f"{cloud.root}/t", since=("0",)))) == [1, 2]


def test_a_directory_that_is_part_of_a_table_is_refused(cloud: Cloud) -> None:
    cloud.put("t/_delta_log/00000000000000000000.json", b"{}")
    cloud.put("t/part/a.parquet", parquet(1))
    with pytest.raises(InvalidInput, match=r"is part of .* which is a Delta table"):
        inspect(f"{cloud.root}/t/part/")
    cloud.put("i/metadata/v1.metadata.json", b"{}")
    with pytest.raises((InvalidInput, MissingPackage), match="Iceberg"):
        inspect(f"{cloud.root}/i/")


def test_what_refuses_or_is_away_is_said_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    from jobs.dataset import cloud_files

    monkeypatch.setattr(cloud_files, "_LOOK_S", 0.5)
    monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT_KEY", raising=False)
    for name in ("AZURE_STORAGE_USE_EMULATOR", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError, match="az://cont names no storage account") as caught:
        inspect("az://cont/a/")
    assert "abfss://CONTAINER@ACCOUNT" in caught.value.hint
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2021&sig=secretsecret")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "nobody")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="az://cont cannot be reached") as caught:
        inspect("az://cont/a/")
    assert "secretsecret" not in str(caught.value)
    with pytest.raises(InvalidInput, match="holds a token") as refused:
        inspect("abfss://cont@acct.dfs.core.windows.net/a?sv=2021&sig=secretsecret")
    assert "secretsecret" not in str(refused.value)
    for wrong in ("abfss://cont/a", "gs:///a", "gs://key:secret@bucket/a"):
        with pytest.raises(InvalidInput, match="names no bucket") as refused:
            inspect(wrong)
        assert "secret" not in str(refused.value)
    for wrong, right in (("gcs://b/a", "gs://"), ("wasbs://c@a.blob.core.windows.net/a", "abfss://")):
        with pytest.raises(InvalidInput) as refused:
            inspect(wrong)
        assert right in refused.value.hint


def test_buckets_that_are_not_allowed_are_not_contacted() -> None:
    for uri in ("gs://other/a", "az://other/a", "abfss://other@acct.dfs.core.windows.net/a"):
        with pytest.raises(UsageError, match="'other' is not among the allowed"):
            check_bucket(uri, ("good",))
    check_bucket("abfss://good@acct.dfs.core.windows.net/a", ("good",))


def test_what_reads_them_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingPackage, match="'obstore'") as caught:
        find_sources("gs://bucket/a/")
    assert "nightbatch[cloud]" in caught.value.hint


def test_the_root_is_none_of_them(tmp_path: Path) -> None:
    from jobs.store import open_store

    with pytest.raises(UsageError, match="is not a store that this program knows") as caught:
        open_store("gs://bucket/jobs")
    assert "s3://bucket/prefix" in caught.value.hint
