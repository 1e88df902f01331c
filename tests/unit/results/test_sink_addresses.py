"""What a target is by its text, what is refused before a job starts, and which files a name stands for."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import Conflict, MissingPackage, UsageError
from jobs.results.sinks.addresses import absolute, address_of, apart, exports_of
from jobs.results.sinks.checks import check_exports, check_targets_here
from jobs.results.sinks.rounds import Rounds
from jobs.store import open_store
from schemas.exports import Export, ExportSpec
from tests.unit.results.exported_jobs import as_round, export, job_of
from tests.unit.results.ledgers import is_error, make_job, result_rows, spec_of, succeed


@pytest.mark.parametrize(
    ("target", "partitioned", "kind", "where"),
    [
        ("/out/a.parquet", False, "file", "/out/a.parquet"),
        ("s3://b/a.jsonl.gz", True, "file", "s3://b/a.jsonl.gz"),
        ("/out/a.csv.zst", False, "file", "/out/a.csv.zst"),
        ("/out/reviews/", True, "directory", "/out/reviews"),
        ("s3://b/date=2026-03-01/", True, "directory", "s3://b/date=2026-03-01"),
        ("delta:/out/t/", False, "delta", "/out/t"),
        ("delta:s3://b/t", True, "delta", "s3://b/t"),
        ("iceberg:prod.nlp.reviews", False, "iceberg", "prod.nlp.reviews"),
        ("iceberg:prod.a.b.c", False, "iceberg", "prod.a.b.c"),
    ],
)
def test_a_target_says_what_it_is(target: str, partitioned: bool, kind: str, where: str) -> None:
    address = address_of(target, partitioned=partitioned)
    assert (address.kind, address.where) == (kind, where)


@pytest.mark.parametrize(
    ("target", "partitioned"),
    [
        *[(target, False) for target in ("", "-", "/out", "/out/a.txt", "/out/a.parquet.gz", "s3://b/", "/a.csv/")],
        *[(target, True) for target in ("", "-", "s3://b", "s3://b/", "gs://b/x", "delta:", "delta:gs://b/t")],
        *[(target, True) for target in ("iceberg:", "iceberg:a.b", "iceberg:a..b", "iceberg:a.b.c;drop", "/")],
    ],
)
def test_a_target_that_says_nothing_is_refused(target: str, partitioned: bool) -> None:
    with pytest.raises(UsageError) as refused:
        address_of(target, partitioned=partitioned)
    assert refused.value.hint, "it says what to write"


def test_error_rows_apart_have_a_place_of_their_own() -> None:
    assert apart("/out/a.parquet") == "/out/a.errors.parquet"
    assert apart("s3://b/a.b.jsonl.gz") == "s3://b/a.b.errors.jsonl.gz"
    assert apart("/out/dir/") == "/out/dir.errors"
    assert apart("delta:/out/t/") == "delta:/out/t_errors"
    assert apart("iceberg:c.n.t") == "iceberg:c.n.t_errors"
    wanted = ExportSpec(targets=("/a.csv", "delta:/t"), errors="apart")
    assert [(each.rows, each.target) for each in exports_of(wanted)] == [
        *(("ok", "/a.csv"), ("error", "/a.errors.csv")),
        *(("ok", "delta:/t"), ("error", "delta:/t_errors")),
    ]


def test_a_relative_target_means_the_same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a.csv") == f"{tmp_path}/a.csv"
    assert absolute("delta:t") == f"delta:{tmp_path}/t"
    for target in ("s3://b/x", "delta:s3://b/x", "iceberg:a.b.c", "/abs.csv", "-"):
        assert absolute(target) == target


@pytest.mark.parametrize(
    ("export", "why"),
    [
        ({"partition_by": ("kind",)}, "--partition-by is given, and no export"),
        ({"errors": "drop"}, "--export-errors is given, and no export"),
        ({"new_columns": "add"}, "--export-new-columns is given, and no export"),
        ({"targets": ("/a/",), "partition_by": ("nope",)}, "no column 'nope' to partition by"),
        ({"targets": ("/a.csv", "/a.csv")}, "given twice"),
        ({"targets": ("/a.csv", "/a.errors.csv"), "errors": "apart"}, "given twice"),
        ({"targets": ("/a.csv",), "partition_by": ("kind",)}, "has no partitions"),
        ({"targets": ("a.csv",)}, "depends on where"),
        ({"targets": ("delta:t",)}, "depends on where"),
        ({"targets": ("delta:s3://other/t",)}, "not among the allowed"),
        ({"targets": ("s3://other/d/",), "partition_by": ("kind",)}, "not among the allowed"),
    ],
)
def test_slips_are_found_before_anything_starts(export: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_exports(spec_of(export=ExportSpec(**export)), ("mine",))


def test_a_kept_column_cannot_take_the_place_of_the_jobs_id() -> None:
    spec = spec_of(export=ExportSpec(targets=("delta:/t",)))
    check_exports(spec, None)
    with pytest.raises(UsageError, match="'job_id' names the job"):
        check_exports(spec.evolve(input=spec.input.evolve(keep=("Job_ID",))), None)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.results.sinks.checks.find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r"Delta tables need a package .*\[delta\]"):
        check_targets_here([Export(target="delta:/t")], None)


def test_rounds_are_those_of_one_date_alone() -> None:
    rounds = Rounds("n-2026-03-29-r3", "n-2026-03-29")
    names = {f"n-2026-03-29{end}" for end in ("", "-r2", "-r3", "-r10", "-rx", "-r1", "0")}
    assert rounds.earlier(names) == ["n-2026-03-29", "n-2026-03-29-r2"]
    assert rounds.later(names) == ["n-2026-03-29-r10"]
    low, high = rounds.limits or ("", "")
    assert all(low <= name < high for name in names if rounds.number(name) is not None)
    alone = Rounds("n-2026-03-29")
    assert (alone.earlier(names), alone.later(names), alone.limits) == ([], [], None)


@pytest.mark.parametrize("name", [f"a.{end}" for end in ("jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "json.gz")])
def test_a_file_is_what_its_name_says(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    [done] = export(job_of(tmp_path), str(target))
    assert done.outcome is not None, done.error
    data = target.read_bytes()
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".zst"):
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    if ".jsonl" in name:
        ids = [json.loads(line)["row_id"] for line in data.splitlines()]
    elif ".json" in name:
        ids = [row["row_id"] for row in json.loads(data)]
    else:
        ids = [int(row["row_id"]) for row in csv.DictReader(io.StringIO(data.decode(), newline=""))]
    assert ids == list(range(75))


def test_a_directory_has_a_folder_for_each_value(tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = export(job_of(tmp_path), f"{target}/", partition_by=("kind", "status"), errors="apart")
    assert [each.outcome and each.outcome.num_rows for each in done] == [64, 11]
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.parquet"))
    assert files == [f"kind=kind%20{n}/status=ok/demo.0.parquet" for n in range(5)]
    assert (target / "_SUCCESS").exists()
    found = pq.read_table(target).sort_by("row_id")
    wanted = result_rows([row for row in range(75) if not is_error(row)])
    assert found["generated_text"].to_pylist() == wanted["generated_text"].to_pylist()
    assert found["kind"].to_pylist() == wanted["kind"].to_pylist()


def test_a_second_round_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    first = as_round(job_of(tmp_path, "n-2026-03-29"), "n", "2026-03-29", 1)
    export(first, f"{tmp_path}/d", partition_by=("status",))
    export(job_of(tmp_path, "n-2026-03-30", [range(2)]), f"{tmp_path}/d", partition_by=("status",))
    second = as_round(job_of(tmp_path, "n-2026-03-29-r2", [range(2)]), "n", "2026-03-29", 2)
    [done] = export(second, f"{tmp_path}/d", partition_by=("status",))
    assert done.outcome is not None
    assert done.outcome.replaced == ("n-2026-03-29",)
    names = sorted(path.name for path in Path(f"{tmp_path}/d").rglob("*.parquet"))
    assert names == ["n-2026-03-29-r2.0.parquet", "n-2026-03-30.0.parquet"]


def test_too_many_folders_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.results.sinks.directory._MAX_PARTITIONS", 10)
    [done] = export(job_of(tmp_path), f"{tmp_path}/d", partition_by=("custom_id",))
    assert "cannot be partitioned by custom_id: there are too many values" in str(done.error)
    assert not list(Path(f"{tmp_path}/d").rglob("*.parquet"))


def test_a_delta_table_is_no_directory(tmp_path: Path) -> None:
    ledger = job_of(tmp_path)
    export(ledger, f"delta:{tmp_path}/t")
    [done] = export(ledger, f"{tmp_path}/t", partition_by=("status",))
    assert "is a Delta table" in str(done.error)


def test_only_jobs_that_have_succeeded_are_exported(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"))
    open_job = make_job(store, [range(5)], job_id="open")
    with pytest.raises(Conflict, match="open has not ended"):
        export(open_job, f"{tmp_path}/a.csv")
    crossed = make_job(store, [range(14)], job_id="crossed", max_error_rate=0.0)
    succeed(crossed)
    with pytest.raises(Conflict, match="has crossed a quality gate"):
        export(crossed, f"{tmp_path}/a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_one_target_that_fails_does_not_keep_the_others_back(tmp_path: Path) -> None:
    done = export(job_of(tmp_path), f"{tmp_path}/no/a.csv", f"{tmp_path}/b.csv")
    assert [each.outcome is not None for each in done] == [False, True]
    assert "Cannot write" in str(done[0].error)
