"""Rows that were drawn from a dataset have gaps between their ids; each goes to the shard whose plan has its id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import inspect, portions, read_portion, resolve_columns
from jobs.models.encoding import BytesEncoder
from jobs.planning.facts import facts_of
from jobs.planning.shards import row_ids_digest, split
from jobs.rows.prepare import RowPreparer
from jobs.spec.build import build_spec
from workers.staging import planning


@pytest.mark.parametrize("limit", [None, 40])
def test_rows_reach_the_shards_that_the_plan_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    dataset = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt": [f"prompt {n}" for n in range(200)]}), dataset, row_group_size=30)
    flags = {"engine.name": "fake", "shards.min_tokens": 1, "shards.target_count": 5}
    flags |= {} if limit is None else {"input.limit": limit, "input.limit_seed": 5}
    spec = build_spec(str(dataset), flags)
    found = inspect(str(dataset))
    columns = resolve_columns(found.schema, spec.input)
    preparer = RowPreparer(spec, columns, BytesEncoder(), 1000)
    blocks = [
        preparer.prepare(batch, ids)
        for portion in portions(found, spec.input, max_rows=50)
        for batch, ids in read_portion(portion, list(columns.needed))
    ]
    facts = facts_of(pa.concat_tables(blocks))
    plan = split(facts, spec.shards)
    assert len(facts) == (limit or 200)
    assert len(plan.shards) > 3

    assert facts.row_ids is not None
    places = planning.Places(facts.row_ids, plan.shard_of, plan.position, None)
    wanted = {shard.index for shard in plan.shards}
    rows = pa.concat_tables([planning.assign(block, places, wanted) for block in blocks])
    for shard in plan.shards:
        ids = np.sort(rows["row_id"].to_numpy()[rows["shard"].to_numpy() == shard.index])
        assert row_ids_digest(ids) == shard.row_ids_sha256
    assert sorted(rows["position"].to_pylist()) == list(range(len(facts)))
