"""Staging of inputs that change while a job runs: the plan's version of a table counts, and old plans are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ledger import Ledger
from jobs.spec.build import build_spec
from jobs.staged import Staged
from jobs.store import open_store
from schemas.records import Plan
from workers.staging.staging import stage


def staged(ledger: Ledger, spec: Any, writer: str = "driver/test") -> tuple[Plan, dict[int, pa.Table]]:
    """Stage a job; return its plan, and the staged rows of each shard."""
    found: list[Plan | int] = []
    stage(ledger, spec, writer, found.append)
    plan = next(each for each in found if isinstance(each, Plan))
    root = Path(ledger.uri)
    return plan, {shard: pq.read_table(next(root.rglob(f"staged/part-{shard:05}.parquet"))) for shard in found[1:]}  # type: ignore[misc]


def test_a_resumed_job_reads_the_version_of_its_plan(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    table = f"{tmp_path}/t"
    deltalake.write_deltalake(table, pa.table({"prompt": ["a", "b"], "lang": ["de", "en"]}), partition_by=["lang"])
    flags = {"engine.name": "fake", "input.keep": ["lang"], "input.truncate": "prompt=tail"}
    spec = build_spec(table, flags)
    ledger = Ledger(open_store(f"{tmp_path}/jobs"), "job")
    ledger.create(spec, writer="test")
    first, rows = staged(ledger, spec)
    assert [(each.format, each.version) for each in first.tables] == [("delta", "0")]
    assert [(column.name, column.type) for column in first.columns] == [("prompt", "string"), ("lang", "string")]
    deltalake.write_deltalake(table, pa.table({"prompt": ["c"], "lang": ["fr"]}), mode="append")
    deltalake.DeltaTable(table).delete("lang = 'de'")
    Staged(ledger).delete(Staged(ledger).shards())
    again, same = staged(ledger, spec)
    assert again == first
    assert {shard: of.to_pylist() for shard, of in same.items()} == {
        shard: of.to_pylist() for shard, of in rows.items()
    }
    kept = [row for of in same.values() for row in of.select(["kept.lang", "truncated"]).to_pylist()]
    assert sorted(row["kept.lang"] for row in kept) == ["de", "en"]
    assert {row["truncated"] for row in kept} == {False}


def test_a_driver_that_comes_second_takes_the_plan_that_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deltalake = pytest.importorskip("deltalake")
    table = f"{tmp_path}/t"
    deltalake.write_deltalake(table, pa.table({"prompt": ["a"]}))
    spec = build_spec(table, {"engine.name": "fake"})
    ledger = Ledger(open_store(f"{tmp_path}/jobs"), "job")
    ledger.create(spec, writer="test")
    create = Ledger.create_plan

    def late(self: Ledger, plan: Plan, *, writer: str) -> Plan:
        """Let another driver be faster, which finds a newer version of the table."""
        monkeypatch.setattr(Ledger, "create_plan", create)
        assert plan.tables[0].version == "0"
        deltalake.write_deltalake(table, pa.table({"prompt": ["b"]}), mode="append")
        other, _ = staged(Ledger(ledger.store, "job"), spec, "driver/other")
        assert other.tables[0].version == "1"
        Staged(ledger).delete(Staged(ledger).shards())
        return create(self, plan, writer=writer)

    monkeypatch.setattr(Ledger, "create_plan", late)
    plan, rows = staged(ledger, spec)
    assert plan.tables[0].version == "1"
    assert sum(map(len, rows.values())) == 2


def test_a_plan_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"]}), tmp_path / "a.parquet")
    spec = build_spec(f"{tmp_path}/a.parquet", {"engine.name": "fake"})
    ledger = Ledger(open_store(f"{tmp_path}/jobs"), "job")
    ledger.create(spec, writer="test")
    plan, rows = staged(ledger, spec)
    [path] = Path(ledger.uri).rglob("plan.json")
    said = json.loads(path.read_text())
    del said["columns"], said["tables"]
    path.write_text(json.dumps(said))
    Staged(ledger).delete(Staged(ledger).shards())
    again, same = staged(Ledger(open_store(f"{tmp_path}/jobs"), "job"), spec)
    assert again == plan.model_copy(update={"columns": ()})
    assert {shard: of.to_pylist() for shard, of in same.items()} == {
        shard: of.to_pylist() for shard, of in rows.items()
    }
