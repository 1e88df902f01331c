"""What killed servers leave in the folder of files goes, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from jobs.serve.batches import Batches
from jobs.serve.files import Files
from jobs.serve.leftovers import KEPT_S, UNTOUCHED_S, Leftovers
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas.batches import Outcome, StoredFile, batch_of, part_key

OLD, FRESH = UNTOUCHED_S + 60, UNTOUCHED_S - 60


@pytest.fixture
def store(root: Path) -> ObjectStore:
    return open_store(str(root))


def write(store: ObjectStore, file_id: str, *, expires_after_s: int | None = None, made_s_ago: float = 0) -> StoredFile:
    """The parts of a file that is not published."""
    writer = Files(store).writer(file_id)
    writer.write(b"{}\n")
    return writer.close(
        filename="f", purpose="batch", created_at=time.time() - made_s_ago, expires_after_s=expires_after_s
    )


def age(store: ObjectStore, seconds: float) -> None:
    """Make everything that is there older."""
    for path in Path(store.uri).rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def clear(store: ObjectStore, *in_use: str) -> set[str]:
    """Clear, and the names that are left."""
    Leftovers(store, Files(store), Batches(store)).clear(set(in_use))
    return {each.key.removeprefix("_files/") for each in store.list("_files/")}


def names(*files: StoredFile, published: bool) -> set[str]:
    parts = {part_key(file.id, file.run, 0).removeprefix("_files/") for file in files}
    return parts | ({f"{file.id}/file.json" for file in files} if published else set())


def test_parts_of_a_killed_upload_go_when_they_are_old(store: ObjectStore) -> None:
    killed, sound = write(store, "file-1"), write(store, "file-2")
    Files(store).publish(sound)
    age(store, FRESH)
    assert clear(store) == names(killed, published=False) | names(sound, published=True)
    for _ in range(3):  # Folders go when they have been empty for as long.
        age(store, OLD)
        assert clear(store) == names(sound, published=True)
    assert not (Path(store.uri) / "_files/file-1").exists()


def test_half_a_part_goes_too(store: ObjectStore) -> None:
    folder = Path(store.uri) / "_files/file-1/run"
    folder.mkdir(parents=True)
    (folder / ".part-00000.jsonl.ab.tmp").write_bytes(b"x")
    clear(store)
    assert folder.exists()
    age(store, OLD)
    clear(store)
    assert not folder.exists()


def test_answers_of_a_batch_that_has_not_ended_stay(store: ObjectStore) -> None:
    """They may be those that its outcome names, which are published later."""
    named, other = write(store, "file-1-output"), write(store, "file-1-output")
    age(store, OLD)
    assert clear(store) == names(named, other, published=False)
    Files(store).publish(named)
    Batches(store).write("batch_1", "done", Outcome(status="completed", at=1, output=named))
    assert clear(store) == names(named, published=True)


def test_expired_files_go_unless_a_batch_reads_them(store: ObjectStore) -> None:
    files = Files(store)
    over = write(store, "file-1", expires_after_s=3600, made_s_ago=3700)
    files.publish(over)
    assert files.find(over.id) is None
    assert files.find(over.id, expired=True) == over
    assert files.page(after=None, limit=9, newest_first=True, purpose=None) == ([], False)
    assert clear(store) == names(over, published=True), "a batch may have been created just before"
    longer = write(store, "file-2", expires_after_s=3600, made_s_ago=3700 + KEPT_S)
    files.publish(longer)
    assert clear(store, "file-2") == names(over, longer, published=True)
    assert clear(store) == names(over, published=True)


def test_which_batch_a_file_belongs_to() -> None:
    assert batch_of("file-12ab-output") == "batch_12ab"
    assert batch_of("file-12ab-errors") == "batch_12ab"
    assert batch_of("file-12ab") is None
