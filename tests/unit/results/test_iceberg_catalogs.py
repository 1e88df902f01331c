"""Iceberg tables through catalogs of other kinds than a file of SQLite: written by exports, and read as input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset import inspect, read_slice, slices
from jobs.errors import MissingInput, StoreError, UsageError
from jobs.results.sinks import append as appending
from jobs.spec.build import absolute_uri, dataset_stem
from schemas.spec import InputSpec
from tests.support.iceberg_rest import TOKEN, RestCatalog, serving
from tests.support.s3 import S3Server
from tests.unit.results.exported_jobs import export, in_between, job_of


def configure(monkeypatch: pytest.MonkeyPatch, name: str, **properties: str) -> None:
    """Configure a catalog as a user does in the environment."""
    for key, value in properties.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__{name.upper()}__{key.upper()}", value)
    import pyiceberg.catalog
    from pyiceberg.utils.config import Config

    monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())


@pytest.fixture
def rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestCatalog]:
    monkeypatch.setattr(appending, "_FIRST_PAUSE_S", 0.001)
    with serving(tmp_path / "rest") as server:
        configure(monkeypatch, "rest", type="rest", uri=server.uri, token=TOKEN)
        yield server


def rows_of(given: Any) -> list[dict[str, Any]]:
    dataset = inspect(given)
    return [row for piece in slices(dataset) for batch in read_slice(piece) for row in batch.to_pylist()]


def counts(uri: str) -> dict[str, int]:
    rows = rows_of(uri)
    assert len({(row["job_id"], row["row_id"]) for row in rows}) == len(rows), "a row is there twice"
    return {job: sum(row["job_id"] == job for row in rows) for job in {row["job_id"] for row in rows}}


def test_exports_through_a_rest_catalog_are_read_back_through_it(rest: RestCatalog, tmp_path: Path) -> None:
    ledger, target = job_of(tmp_path), "iceberg:rest.out.t"
    assert [each.error for each in export(ledger, target, partition_by=("status",))] == [None]
    assert counts(target) == {"demo": 75}
    first = inspect(target).tables[0]
    assert [each.error for each in export(ledger, target)] == [None], "it is there"
    other = job_of(tmp_path, "other", [range(5)])
    assert [each.error for each in export(other, target)] == [None]
    assert counts(target) == {"demo": 75, "other": 5}
    pinned = inspect(target, (first,))
    assert pinned.num_rows == 75, "the plan's snapshot, whatever was written since"
    assert {row["job_id"] for row in rows_of(InputSpec(uri=target, since=(first.version,)))} == {"other"}


def test_a_commit_whose_answer_is_lost_is_found(rest: RestCatalog, tmp_path: Path) -> None:
    target = "iceberg:rest.out.t"
    export(job_of(tmp_path, "first", [range(3)]), target)
    rest.lost_answers, rest.commits = 1, 0
    [done] = export(job_of(tmp_path), target)
    assert done.outcome is not None
    assert rest.commits == 1
    assert counts(target) == {"first": 3, "demo": 75}


def test_a_commit_that_is_refused_is_made_again(rest: RestCatalog, tmp_path: Path) -> None:
    target = "iceberg:rest.out.t"
    export(job_of(tmp_path, "first", [range(3)]), target)
    rest.refusals = 1
    [done] = export(job_of(tmp_path), target)
    assert done.outcome is not None
    assert counts(target) == {"first": 3, "demo": 75}


def test_two_exporters_at_once_through_a_rest_catalog(
    rest: RestCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, ledger = "iceberg:rest.out.t", job_of(tmp_path)
    export(job_of(tmp_path, "first", [range(3)]), target)
    in_between(monkeypatch, lambda: export(ledger, target))
    assert all(each.outcome for each in export(ledger, target))
    assert counts(target) == {"first": 3, "demo": 75}


def test_a_catalog_that_refuses_or_lacks_the_table_says_so_without_its_token(
    rest: RestCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingInput, match=r"catalog 'rest' has no table out.nothing"):
        inspect("iceberg:rest.out.nothing")
    with pytest.raises(UsageError, match="catalog 'unknown' is not configured"):
        inspect("iceberg:unknown.out.t")
    configure(monkeypatch, "rest", token="another-secret")
    ledger = job_of(tmp_path)
    for refused in (lambda: inspect("iceberg:rest.out.t"), lambda: _raise(export(ledger, "iceberg:rest.o.t"))):
        with pytest.raises(StoreError, match="cannot be reached") as caught:
            refused()
        assert TOKEN not in str(caught.value)
        assert "another-secret" not in str(caught.value)


def _raise(done: Any) -> None:
    assert done[0].error is not None
    raise done[0].error


def test_exports_through_glue(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glue = {"GLUE__ENDPOINT": s3_server.endpoint, "GLUE__REGION": "us-east-1"}
    glue |= {f"GLUE__{key}": os.environ[f"AWS_{key}"] for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    configure(monkeypatch, "aws", type="glue", warehouse=f"s3://{s3_bucket}/tables", **glue)
    monkeypatch.setattr(appending, "_FIRST_PAUSE_S", 0.001)
    ledger, target = job_of(tmp_path), "iceberg:aws.out.t"
    export(job_of(tmp_path, "first", [range(3)]), target)
    in_between(monkeypatch, lambda: export(ledger, target))
    assert [each.error for each in export(ledger, target)] == [None]
    assert counts(target) == {"first": 3, "demo": 75}
    assert all(file.uri.startswith(f"s3://{s3_bucket}/tables/") for file in inspect(target).files)


def test_addresses_of_tables_stay_what_they_are() -> None:
    assert absolute_uri("iceberg:rest.out.t") == "iceberg:rest.out.t"
    assert dataset_stem("iceberg:rest.out.t") == "t"
    assert absolute_uri("delta:s3://bucket/t") == "s3://bucket/t"
    assert absolute_uri("delta:/t") == "/t"
