"""Whatever happened to a staged object, a replica does not work on it: it has it made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.ledger import Ledger
from jobs.staged import Missing, Staged
from jobs.store.local import LocalStore
from schemas.records import Plan
from tests.unit.workers.test_replicas_faults import spec_with, stage
from workers.shards.staged_shards import read_staged

SPEC = spec_with()
KEY = "demo/_job/staged/part-00000.parquet"


def made(folder: Path) -> tuple[Ledger, Plan, bytes]:
    ledger = Ledger(LocalStore(folder), "demo")
    plan = stage(ledger, SPEC, [["a", "bb"], ["c", "dd"]])
    return ledger, plan, (folder / KEY).read_bytes()


def test_sound_rows_are_read(tmp_path: Path) -> None:
    ledger, plan, _ = made(tmp_path)
    staged, rows = read_staged(ledger, SPEC, plan, 1)
    assert staged["row_id"].to_pylist() == [row.row_id for row in rows] == [2, 3]
    assert [row.prompt for row in rows] == [list(b"c"), list(b"dd")]


def test_no_flipped_bit_and_no_cut_goes_unseen(tmp_path: Path) -> None:
    ledger, plan, sound = made(tmp_path)
    for place in range(0, len(sound), 7):
        for spoilt in (sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :], sound[:place]):
            (tmp_path / KEY).write_bytes(spoilt)
            with pytest.raises(Missing, match=r"part-00000\.parquet is damaged"):
                read_staged(ledger, SPEC, plan, 0)


def test_an_object_of_an_older_version_has_no_hash_and_is_known_by_its_rows(tmp_path: Path) -> None:
    ledger, plan, sound = made(tmp_path)
    Staged(ledger).delete([0])
    assert ledger.store.put_new(KEY, sound, writer="old")
    assert len(read_staged(ledger, SPEC, plan, 0)[1]) == 2
    (tmp_path / KEY).write_bytes((tmp_path / KEY.replace("00000", "00001")).read_bytes())
    with pytest.raises(Missing, match="is damaged"):
        read_staged(ledger, SPEC, plan, 0)


def test_an_object_of_this_version_without_its_hash_was_put_there_by_another(tmp_path: Path) -> None:
    ledger, plan, sound = made(tmp_path)
    Staged(ledger).delete([0])
    assert ledger.store.put_new(KEY, sound, writer="who")
    ours = plan.evolve(shards=tuple(shard.evolve(num_bytes=1) for shard in plan.shards))
    with pytest.raises(Missing, match="is damaged"):
        read_staged(ledger, SPEC, ours, 0)
