"""Which results of an earlier job are those of a row: what can only end an answer does not make another answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ledger import Ledger
from jobs.staged import Staged
from schemas import keys
from schemas.tables import FINGERPRINT_FIELDS
from tests.support.local_jobs import rows_of, run_job, write_rows

SHORT, LOOP, BLANK = "prompt 1", "prompt 2 LOOP", "prompt 3 BLANK"
FAKE = {"engine__fake__loop_marker": "LOOP", "engine__fake__blank_marker": "BLANK"}
WIDE = {"max_pattern_size": 4, "min_count": 300}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "d.parquet", [SHORT, LOOP, BLANK])


def reused(tmp_path: Path, dataset: Path, first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The prompts whose results the second job takes from the first one."""
    before = run_job(tmp_path, "before", dataset, **FAKE, **first)
    after = run_job(tmp_path, "after", dataset, **FAKE, **second, reuse=["before"])
    plan = after.plan()
    assert plan is not None
    copied = {shard.index for shard in plan.shards if shard.num_reused_rows}
    root = Path(after.uri)
    found = [row for n in copied for row in pq.read_table(root / keys.result(n))["row_id"].to_pylist()]
    same = {row["row_id"]: row for row in rows_of(before)}
    assert [row for row in rows_of(after) if row["row_id"] in found] == [same[row] for row in sorted(found)]
    return [[SHORT, LOOP, BLANK][row] for row in sorted(found)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # The fake answer has 21 tokens. A larger limit, and a smaller one that it still fits.
        ({"sampling__max_tokens": 256}, {"sampling__max_tokens": 4096}, [SHORT, BLANK]),
        ({"sampling__max_tokens": 256}, {"sampling__max_tokens": 21}, [SHORT, BLANK]),
        ({"sampling__max_tokens": 256}, {"sampling__max_tokens": 20}, [BLANK]),
        # A loop that was ended is the same under any larger limit, and with any limit that it does not reach.
        ({"sampling__max_tokens": 300}, {"sampling__max_tokens": 4096}, [SHORT, LOOP, BLANK]),
        ({"sampling__max_tokens": 300}, {"sampling__max_tokens": 256}, [SHORT, BLANK]),
        # Without detection the loop would go on; answers that no detection could end are the same.
        ({"sampling__max_tokens": 300}, {"sampling__max_tokens": 4096, "sampling__repetition_detection": "off"},
         [SHORT, BLANK]),
        ({"sampling__repetition_detection": "off", "sampling__max_tokens": 300}, {"sampling__max_tokens": 300},
         [SHORT, BLANK]),
        ({"sampling__max_tokens": 400}, {"sampling__max_tokens": 400, "sampling__repetition_detection": WIDE},
         [SHORT, BLANK]),
        ({"sampling__max_tokens": 400},
         {"sampling__max_tokens": 400, "sampling__repetition_detection": {"max_pattern_size": 1, "min_count": 21}},
         [BLANK]),
        # A job that asks again for blank answers takes none, and one that does not takes what came at once.
        ({}, {"retry_invalid": 2}, [SHORT]),
        ({"retry_invalid": 2}, {}, [SHORT]),
        ({"retry_invalid": 2}, {"retry_invalid": 2}, [SHORT, LOOP, BLANK]),
        # Anything else makes another answer; and one that is sampled at random is not the answer.
        ({}, {"sampling__max_tokens": 300, "sampling__presence_penalty": 0.5}, []),
        ({"sampling__temperature": 0.5}, {"sampling__temperature": 0.5, "sampling__max_tokens": 300}, []),
        ({"sampling__temperature": 0.5},
         {"sampling__temperature": 0.5, "sampling__max_tokens": 300, "reuse_sampled": True}, []),
    ],
)  # fmt: skip
def test_an_answer_that_ended_by_itself_is_that_of_every_limit_beyond_it(
    tmp_path: Path, dataset: Path, first: dict[str, Any], second: dict[str, Any], expected: list[str]
) -> None:
    assert reused(tmp_path, dataset, first, second) == expected


def as_by_an_older_version(ledger: Ledger) -> None:
    """Leave of the fingerprints what versions wrote that knew only whole ones."""
    from workers.shards.results import read_parquet, write_parquet

    for shard in ledger.committed():
        table = read_parquet(ledger.read_fingerprints(shard) or b"")
        assert table.schema.names == [field.name for field in FINGERPRINT_FIELDS]
        ledger.write_fingerprints(shard, write_parquet(table.select(["row_id", "fingerprint"])), writer="test")


@pytest.mark.parametrize(("limit", "expected"), [(256, 3), (300, 2)])
def test_results_of_older_versions_are_found_unless_a_loop_would_have_been_ended(
    tmp_path: Path, dataset: Path, limit: int, expected: int
) -> None:
    """Up to 256 tokens nothing is ended early, so that all is found; beyond, what ended by itself before."""
    first = {"sampling__max_tokens": limit, "sampling__repetition_detection": "off"}
    as_by_an_older_version(run_job(tmp_path, "old", dataset, **FAKE, **first))
    plan = run_job(tmp_path, "new", dataset, **FAKE, sampling__max_tokens=limit, reuse=["old"]).plan()
    assert plan is not None
    assert (plan.num_reused_rows, plan.reuse_version) == (expected, 2)


def test_a_plan_of_an_older_version_is_made_again_by_its_own_rules(tmp_path: Path, dataset: Path) -> None:
    from jobs.spec.build import build_spec
    from jobs.store import open_store
    from tests.support.local_jobs import run_spec
    from workers.staging import planning

    run_job(tmp_path, "before", dataset, **FAKE)
    flags = {"engine.name": "fake", "engine.fake.loop_marker": "LOOP", "engine.fake.blank_marker": "BLANK"}
    spec = build_spec(str(dataset), {**flags, "sampling.max_tokens": 300, "reuse": ["before"]})
    ledger = Ledger(open_store(f"{tmp_path}/jobs"), "after")
    ledger.create(spec, writer="test")
    from workers.staging.staging import stage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "VERSION", 1)
        stage(ledger, spec, "driver/1", lambda _: None)
    old = ledger.plan()
    assert old is not None
    assert (old.num_reused_rows, old.reuse_version) == (0, 1)
    Staged(ledger).delete(Staged(ledger).shards())
    record = run_spec(tmp_path, "after", spec)
    assert record.state == "SUCCEEDED", record
    assert pa.Table.from_pylist(rows_of(ledger)).num_rows == 3
