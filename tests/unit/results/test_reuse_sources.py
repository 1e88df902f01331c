"""Which results of earlier jobs can be taken: those that are there, good, and what was committed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.planning.matching import Wanted
from jobs.planning.reuse import Sources, is_sound, open_sources, read_source
from jobs.store.local import LocalStore
from schemas import keys
from schemas.commits import ShardStats
from schemas.records import Failed
from schemas.spec import InputSpec, JobSpec, ModelSpec
from workers.shards.results import write_parquet

PRINTS = [bytes([number]) * 16 for number in range(6)]
"""Of rows 0 to 5: three in each of two shards; row 1 has failed."""


def source(store: LocalStore, job_id: str) -> Ledger:
    ledger = Ledger(store, job_id)
    ledger.create(JobSpec(name="n", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes")), writer="test")
    for shard in range(2):
        ids = pa.array(range(3 * shard, 3 * shard + 3), pa.int64())
        status = ["error" if row == 1 else "ok" for row in ids.to_pylist()]
        data = write_parquet(pa.table({"row_id": ids, "status": status, "generated_text": ["x" * 3000] * 3}))
        errors = {"ENGINE_ERROR": 1} if shard == 0 else {}
        stats = ShardStats.of(data, rows=3, error_codes=errors, input_tokens=3, generated_tokens=3)
        ledger.commit(shard, data, stats, attempt_id=f"a{shard}")
        prints = pa.table({"row_id": ids, "fingerprint": pa.array(PRINTS[3 * shard : 3 * shard + 3], pa.binary(16))})
        ledger.write_fingerprints(shard, write_parquet(prints), writer="test")
    ledger.end(Failed(code="INVALID_INPUT", reason="for the test"), writer="test")
    return ledger


def spoil(ledger: Ledger, key: str, how: str) -> None:
    path = Path(ledger.store.uri) / ledger.job_id / key
    data = path.read_bytes()
    place = len(data) // 2
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    path.write_bytes({"flip": flipped, "cut": data[:place], "empty": b""}.get(how, b""))
    if how == "delete":
        path.unlink()


def taken(ledger: Ledger, *jobs: str, warned: list[str] | None = None) -> tuple[Sources, list[tuple[str, int] | None]]:
    """For each of the rows the job and the shard that its result is taken from."""
    heard = [] if warned is None else warned
    prints, nothing = pa.array(PRINTS, pa.binary(16)), pa.nulls(len(PRINTS), pa.binary(16))
    wanted = Wanted(
        whole=prints, open=nothing, former=nothing, detection=pa.nulls(len(PRINTS), pa.string()),
        limit_tokens=np.full(len(PRINTS), 10, np.int32),
    )  # fmt: skip
    sources = open_sources(ledger, jobs, heard.append).readable(wanted, heard.append)
    places = [None if at < 0 else sources.rows.slice(at, 1).to_pylist()[0] for at in sources.find(wanted).tolist()]
    return sources, [place and (sources.jobs[place["job"]], place["shard"]) for place in places]


def test_good_rows_of_a_sound_job_are_taken(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    warned: list[str] = []
    sources, places = taken(source(store, "old"), "old", warned=warned)
    assert places == [("old", 0), None, ("old", 0), *[("old", 1)] * 3]
    assert (sources.damaged, warned) == ((), [])


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "delete"])
@pytest.mark.parametrize("what", [keys.result, keys.fingerprints])
@pytest.mark.parametrize("shard", [0, 1])
def test_what_is_damaged_is_left_out_with_a_warning_and_had_from_another_job(
    tmp_path: Path, what: object, how: str, shard: int
) -> None:
    store, warned = LocalStore(tmp_path), list[str]()
    old, older = source(store, "old"), source(store, "older")
    spoil(old, what(shard), how)  # type: ignore[operator]
    sources, places = taken(old, "old", warned=warned)
    other = ("old", 1 - shard)
    assert places[3 * (1 - shard) + 2] == other
    assert places[3 * shard] is None
    gone_quietly = how == "delete"  # then nothing is committed there, or an older version has written no fingerprints
    assert warned or gone_quietly
    assert (sources.damaged == ("old",)) or gone_quietly
    assert all("old" in warning and f"part-0000{shard}" in warning for warning in warned)
    assert taken(old, "old", older.job_id)[1][3 * shard] == ("older", shard)


@pytest.mark.parametrize("key", [keys.SPEC, keys.TERMINAL])
@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_job_with_damaged_documents_is_left_out_and_one_that_is_none_is_refused(
    tmp_path: Path, key: str, how: str
) -> None:
    ledger, warned = source(LocalStore(tmp_path), "old"), list[str]()
    assert is_sound(ledger, warned.append)
    spoil(ledger, key, how)
    assert not is_sound(ledger, warned.append)
    assert "old" in warned[0]
    with pytest.raises(UsageError, match="No job"):
        is_sound(Ledger(ledger.store, "never-was"))


def test_only_what_was_committed_is_read(tmp_path: Path) -> None:
    ledger = source(LocalStore(tmp_path), "old")
    found = read_source(ledger, 1, ["row_id", "unknown", "status"])
    assert found is not None
    assert found.schema.names == ["row_id", "status"]
    assert read_source(ledger, 7) is None
    (tmp_path / "old/results/.part-00001.parquet.meta.json").write_text("{}")
    assert read_source(ledger, 1) is None, "whoever wrote it did not commit it"
