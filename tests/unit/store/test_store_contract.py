"""What every store promises, shown on each kind of store."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from jobs.errors import StoreError, UsageError
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.store.probe import check_write_once
from tests.simulation.bucket import Bucket, refusal


@pytest.fixture(params=["local", "memory", "s3", "s3-prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "local":
        return open_store(str(tmp_path / "not" / "there" / "yet"))
    if request.param == "memory":  # what the simulation runs on must keep the same promises
        memory = Bucket(page_size=7)
        monkeypatch.setattr("jobs.store.s3_client._process_client", lambda _: memory)
        return open_store("s3://memory/some/prefix")
    bucket = request.getfixturevalue("s3_bucket")
    return open_store(f"s3://{bucket}/some/prefix/" if request.param == "s3-prefix" else f"s3://{bucket}")


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_first_writer_wins_and_the_bytes_stay(store: ObjectStore) -> None:
    assert store.put_new("a/b", b"one", writer="w1")
    assert not store.put_new("a/b", b"two", writer="w2")
    assert store.get("a/b") == b"one"


def test_the_same_writer_is_told_again_that_it_won(store: ObjectStore) -> None:
    assert store.put_new("a", b"one", writer="w1", metadata={"rows": "7"})
    assert store.put_new("a", b"one", writer="w1", metadata={"rows": "7"})
    info = store.head("a")
    assert info is not None
    assert info.metadata == {"rows": "7", "writer": "w1"}
    assert info.size_bytes == 3
    assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_missing_is_none(store: ObjectStore) -> None:
    assert store.get("nope") is None
    assert store.head("nope") is None
    assert keys(store) == []
    assert list(store.list_folders()) == []
    store.delete("nope")


def test_tail_is_the_end_of_the_object(store: ObjectStore) -> None:
    store.put_new("a", b"0123456789", writer="w")
    store.put("empty", b"")
    assert store.get_tail("a", 3) == b"789"
    assert store.get_tail("a", 10) == store.get_tail("a", 1000) == b"0123456789"
    assert store.get_tail("empty", 8) == b""
    assert store.get_tail("nope", 8) is None


def test_put_replaces(store: ObjectStore) -> None:
    store.put("p", b"one")
    store.put("p", b"")
    assert store.get("p") == b""
    store.put_new("q", b"x", writer="w")
    store.put("q", b"y")
    info = store.head("q")
    assert store.get("q") == b"y"
    assert info is not None
    assert info.metadata == {}


def test_delete_makes_room(store: ObjectStore) -> None:
    store.put_new("a/b", b"one", writer="w1")
    store.delete("a/b")
    assert store.get("a/b") is None
    assert store.put_new("a/b", b"two", writer="w2")
    info = store.head("a/b")
    assert info is not None
    assert info.metadata["writer"] == "w2"


def test_listing_is_in_key_order_at_any_depth(store: ObjectStore) -> None:
    names = ["a", "a-b", "a.b/c", "a/b", "a/b-c", "a/b/c", "a0", "b/a", "é/ü", "z/_job/x"]
    if not store.uri.startswith("s3://"):
        names = [name for name in names if name not in ("a", "a/b")]
    for name in reversed(names):
        store.put_new(name, b"x", writer="w")
    assert keys(store) == sorted(names)
    assert keys(store, "a/") == [name for name in sorted(names) if name.startswith("a/")]
    assert keys(store, "a/b-") == ["a/b-c"]
    assert keys(store, "nothing") == []
    assert [info.size_bytes for info in store.list("b/")] == [1]


def test_folders_are_those_with_objects(store: ObjectStore) -> None:
    for name in ("job-b/_job/spec.json", "job-a/results/x", "file", "job-a/y", "job-c/x"):
        store.put_new(name, b"x", writer="w")
    store.delete("job-c/x")
    assert list(store.list_folders()) == ["job-a", "job-b"]
    assert list(store.list_folders("job-a/")) == ["results"]
    with pytest.raises(ValueError, match="folder"):
        list(store.list_folders("job-a"))


def test_many_objects_are_all_listed(store: ObjectStore) -> None:
    names = [f"results/part-{i:05d}.parquet" for i in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert keys(store) == names


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/", "../a", "a/../b", "a/.b", ".", "a\nb", "a" * 300, "a\\b"])
def test_keys_that_no_store_can_hold_are_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        store.put_new(key, b"", writer="w")
    with pytest.raises(ValueError, match="key"):
        store.get(key)


@pytest.mark.parametrize("metadata", [{"Rows": "1"}, {"rows": "é"}, {"rows": " 1"}, {"a": "x" * 3000}])
def test_metadata_that_s3_would_change_is_refused(store: ObjectStore, metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        store.put_new("a", b"", writer="w", metadata=metadata)


def test_survives_pickling(store: ObjectStore) -> None:
    store.put_new("a", b"one", writer="w")
    again = pickle.loads(pickle.dumps(store))
    assert again.uri == store.uri
    assert again.get("a") == b"one"


def test_probe_passes_and_leaves_nothing(store: ObjectStore) -> None:
    check_write_once(store)
    assert keys(store) == []


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "s3://", "s3:///x", "https://host/x", "file://host/x"])
def test_unknown_addresses_are_usage_errors(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(uri)
    assert "s3://" in caught.value.hint


def test_local_addresses_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("x/y/").uri == str(tmp_path / "x" / "y")
    assert open_store(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    assert open_store("s3://b/p/q/").uri == "s3://b/p/q"


class Forgetful:
    """A store that ignores the condition, as older S3-compatible servers do."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.uri = store.uri

    def put_new(self, key: str, data: bytes, *, writer: str, metadata: object = None) -> bool:
        self._store.delete(key)
        return self._store.put_new(key, data, writer=writer)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_probe_refuses_a_store_that_overwrites(store: ObjectStore) -> None:
    with pytest.raises(StoreError, match="If-None-Match"):
        check_write_once(Forgetful(store))  # type: ignore[arg-type]
    assert keys(store) == []


def test_age_is_told_by_the_stores_own_clock(store: ObjectStore) -> None:
    assert store.age_s("a/b") is None
    store.put("a/b", b"x")
    age_s = store.age_s("a/b")
    assert age_s is not None
    assert -2 <= age_s < 30


def test_a_store_whose_clock_is_wrong_tells_ages_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = [datetime.now(UTC) - timedelta(hours=1)]
    memory = Bucket(clock=lambda: shifted[0])
    monkeypatch.setattr("jobs.store.s3_client._process_client", lambda _: memory)
    store = open_store("s3://memory/x")
    store.put("a", b"x")
    shifted[0] += timedelta(seconds=40)
    age_s = store.age_s("a")
    assert age_s is not None
    assert 38 <= age_s <= 42
    shifted[0] -= timedelta(seconds=60)
    assert store.age_s("a") is None, "its answers contradict each other"


def test_a_store_that_answers_304_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Bucket()
    put = memory.put_object

    def old(**request: Any) -> dict[str, Any]:
        try:
            return put(**request)
        except ClientError:
            raise refusal(304, "304") from None

    monkeypatch.setattr(memory, "put_object", old)
    monkeypatch.setattr("jobs.store.s3_client._process_client", lambda _: memory)
    with pytest.raises(StoreError, match="conditional write with 304") as caught:
        check_write_once(open_store("s3://memory/x", patience_s=1))
    assert "Upgrade the store" in caught.value.hint
