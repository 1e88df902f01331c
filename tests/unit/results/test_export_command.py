"""`jobs export`, the driver that exports by itself, and what `jobs status` says of both."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.client import BatchClient
from jobs.errors import Exit, UsageError
from jobs.ledger import Ledger
from jobs.results.sinks.addresses import exports_of
from jobs.results.sinks.records import outcome_of
from jobs.schedules.gateway import ClientGateway
from jobs.settings import Settings
from jobs.spec.options import spec_of as spec_of_job
from jobs.status.ended import JobFailed
from jobs.status.liveness import Pulse
from jobs.status.standing import look
from jobs.store import open_store
from schemas.exports import Export, ExportSpec
from tests.support.invariants import examine
from tests.support.s3 import S3Server
from tests.support.stored import Stored
from tests.unit.results.exported_jobs import export, in_between, job_of, use_catalog
from tests.unit.results.ledgers import make_job, succeed
from workers.driver import entry


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def asking(root: Path, *targets: str, **options: str) -> Ledger:
    """A job that has succeeded and was asked to be exported."""
    wanted = ExportSpec.model_validate({"targets": targets, **options})
    ledger = make_job(open_store(str(root)), [range(20)], max_error_rate=1.0, export=wanted)
    succeed(ledger)
    return ledger


def nowhere(namespace: str) -> NoReturn:
    raise AssertionError("a job that has ended needs no cluster")


def test_a_driver_exports_what_the_spec_asks_for(root: Path, tmp_path: Path) -> None:
    ledger = asking(root, f"{tmp_path}/a.parquet", f"delta:{tmp_path}/t", errors="drop")
    assert entry.main(ledger.uri, nowhere) == Exit.OK
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 17
    done = [outcome_of(ledger, each) for each in exports_of(ledger.spec().export)]
    assert [each and (each.kind, each.num_rows) for each in done] == [("file", 17), ("delta", 17)]
    before = (tmp_path / "a.parquet").stat().st_mtime_ns
    assert entry.main(ledger.uri, nowhere) == Exit.OK
    assert (tmp_path / "a.parquet").stat().st_mtime_ns == before, "it is done once"


def test_an_export_that_fails_is_told_and_goes_on_by_hand(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = asking(root, f"{tmp_path}/no/a.jsonl", f"{tmp_path}/b.csv.gz")
    assert main(["status", "demo"]) == 0
    assert "export 1         " in (shown := capfd.readouterr()).out
    assert "a.jsonl: waiting" in shown.out
    assert "export demo" in shown.err
    assert entry.main(ledger.uri, nowhere) == Exit.USAGE
    assert "no/a.jsonl has failed: Cannot write" in caplog.text
    assert ledger.terminal() is not None
    assert not ledger.interruptions(), "the job has ended"
    assert main(["status", "demo", "--json", "--exit-status"]) == Exit.JOB_FAILED
    first, second = json.loads(capfd.readouterr().out)["exports"]
    assert (first["state"], second["state"], second["num_rows"]) == ("failed", "done", 20)
    assert first["reason"].startswith(f"Cannot write {tmp_path}/no/a.jsonl: No such file or directory.")
    assert main(["export", "demo"]) == Exit.USAGE
    told = capfd.readouterr()
    assert "was done before" in told.out
    assert told.err.count("Cannot write") == 1
    (tmp_path / "no").mkdir()
    assert main(["export", "demo", "--json"]) == 0
    assert [(each["rows"], each["state"]) for each in json.loads(capfd.readouterr().out)] == [
        (20, "done"),
        (20, "was done before"),
    ]
    assert main(["status", "demo", "--exit-status"]) == 0
    assert "a.jsonl: 20 rows" in capfd.readouterr().out


def test_whoever_waits_for_a_job_waits_while_its_driver_exports(root: Path, tmp_path: Path) -> None:
    ledger, driver = asking(root, f"{tmp_path}/a.csv"), SimpleNamespace(submission_id="d", active=True, running=True)

    def exporting(*drivers: Any) -> bool:
        return look(ledger, drivers, Pulse()).exporting

    assert exporting(driver)
    assert not exporting(), "its driver has died: nobody is at work"
    with pytest.raises(JobFailed, match=r"is not exported to .*a\.csv\. Its driver ended before\. Export it again"):
        BatchClient(root=root).job("demo").wait(1.0, progress=False)
    assert entry.main(ledger.uri, nowhere) == Exit.OK
    assert not exporting(driver)
    assert BatchClient(root=root).job("demo").wait(1.0, progress=False).ended


def test_an_export_by_hand_is_shown_too(root: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asking(root)
    assert main(["export", "demo"]) == Exit.USAGE
    assert "No export was asked for when demo was submitted" in capfd.readouterr().err
    assert main(["export", "demo", "out/", "delta:t", "--partition-by", "status"]) == 0
    capfd.readouterr()
    assert main(["status", "demo"]) == 0
    shown = capfd.readouterr().out
    assert f"{tmp_path}/out: 20 rows" in shown
    assert f"delta:{tmp_path}/t: 20 rows" in shown
    assert main(["export", "demo", "no/x.csv"]) == Exit.USAGE
    assert main(["status", "demo", "--exit-status"]) == 0, "who tried it by hand was told"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("out.txt",), "does not say what it is"),
        (("a.csv", "--export-errors", "maybe"), "--export-errors must be keep, drop or apart"),
        (("a/", "--partition-by", "nope"), "no column 'nope' to partition by"),
        (("a.csv", "--partition-by", "status"), "A file has no partitions"),
        (("iceberg:nowhere.a.b",), "catalog 'nowhere' is not configured where this runs"),
    ],
)
def test_slips_are_said_in_a_sentence(
    root: Path, arguments: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    asking(root)
    assert main(["export", "demo", *arguments]) == Exit.USAGE
    assert words in capfd.readouterr().err


def test_python_exports_too(root: Path, tmp_path: Path) -> None:
    asking(root, f"{tmp_path}/a.csv")
    job = BatchClient(root=root).job("demo")
    assert [outcome.num_rows for outcome in job.export()] == [20]
    assert [outcome.num_rows for outcome in job.export("delta:t", errors="apart")] == [17, 3]
    assert [each.word for each in job.status().exports] == ["done"] * 3
    with pytest.raises(UsageError, match="`new_columns` must be refuse or add"):
        job.export("delta:t", new_columns="maybe")  # type: ignore[arg-type]


def test_a_table_with_other_columns_is_found_before_a_job_starts(root: Path, tmp_path: Path) -> None:
    export(job_of(tmp_path, "older"), f"delta:{tmp_path}/t")
    pq.write_table(pa.table({"prompt": ["a"], "tags": [7], "team": ["x"]}), tmp_path / "data.parquet")
    target, client = f"delta:{tmp_path}/t", BatchClient(root=root)
    with pytest.raises(UsageError, match="lacks 1 of the results' columns: team"):
        client.submit(tmp_path / "data.parquet", engine="fake", keep=["team"], export=[target], job_id="new")
    with pytest.raises(UsageError, match=r"'tags' of The Delta table .* is list<.*>; the results have int64"):
        client.submit(tmp_path / "data.parquet", engine="fake", keep=["tags"], export=[target], job_id="new")
    spec = spec_of_job(
        str(tmp_path / "data.parquet"), {"engine": "fake", "keep": ["team"], "export": target}, Settings()
    )
    with pytest.raises(UsageError, match="columns: team"):
        ClientGateway(Settings(root=str(root))).submit(spec, "new")
    assert Ledger(open_store(str(root)), "new").created_at() is None


def test_results_are_compressed_by_the_name_too(root: Path, tmp_path: Path) -> None:
    import gzip

    asking(root)
    assert main(["results", "demo", "a.jsonl.gz"]) == 0
    assert len(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).splitlines()) == 20
    assert main(["results", "demo", "a.parquet.gz"]) == Exit.USAGE


def test_tables_and_directories_on_s3(
    s3_bucket: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_catalog(tmp_path)
    monkeypatch.setenv("PYICEBERG_CATALOG__LOCAL__WAREHOUSE", f"s3://{s3_bucket}/warehouse")
    import pyiceberg.catalog
    from pyiceberg.utils.config import Config

    pyiceberg.catalog._ENV_CONFIG = Config()
    ledger = job_of(tmp_path)
    targets = (f"delta:s3://{s3_bucket}/t", "iceberg:local.ns.t", f"s3://{s3_bucket}/d/")
    done = export(ledger, *targets, partition_by=("status",))
    assert [each.outcome and each.outcome.num_rows for each in done] == [75] * 3, [str(each.error) for each in done]
    # Once more, from the tables alone: the records are lost.
    for each in done:
        ledger.store.delete(ledger.key(f"_job/exports/{each.export.id}/outcome.json"))
    again = export(ledger, *targets, partition_by=("status",))
    assert [each.outcome and each.outcome.found for each in again] == [True, True, False]
    store = open_store(f"s3://{s3_bucket}")
    for folder in ("t/", "warehouse/", "d/"):
        files = [info.key for info in store.list(folder) if info.key.endswith(".parquet")]
        rows = sum(pq.ParquetFile(_buffer(store.get(key))).metadata.num_rows for key in files)
        assert rows == 75, folder
    # The store itself must tell two exporters apart that commit at the same time.
    other = job_of(tmp_path, "other", [range(3)])
    in_between(monkeypatch, lambda: export(other, targets[0], partition_by=("status",)))
    [late] = export(other, targets[0], partition_by=("status",))
    assert late.outcome is not None
    assert late.outcome.found


def _buffer(data: bytes | None) -> object:
    import io

    assert data is not None
    return io.BytesIO(data)


def test_settings_reach_the_gateway(tmp_path: Path) -> None:
    ledger = job_of(tmp_path)
    gateway = ClientGateway(Settings(root=str(tmp_path / "root"), allowed_buckets=("good",)))
    gateway.export(ledger.job_id, [Export(target=f"{tmp_path}/a.csv"), Export(target=f"delta:{tmp_path}/t")])
    assert (tmp_path / "a.csv").exists()
    with pytest.raises(UsageError, match="Cannot write"):
        gateway.export(ledger.job_id, [Export(target=f"{tmp_path}/no/a.csv")])
    with pytest.raises(UsageError, match="not among the allowed"):
        gateway.export(ledger.job_id, [Export(target="delta:s3://bad/t")])


def test_the_records_of_exports_are_known_to_those_who_check_a_job(root: Path, tmp_path: Path) -> None:
    ledger = asking(root, f"{tmp_path}/a.csv", f"{tmp_path}/no/b.csv")
    assert entry.main(ledger.uri, nowhere) == Exit.USAGE
    records = [info.key for info in ledger.objects() if "/exports/" in info.key]
    assert sorted(key.rpartition("/")[2] for key in records) == ["failure.json", "outcome.json"]
    assert not [each for each in examine(Stored.of(ledger), num_rows=20).violations if "exports" in each]
