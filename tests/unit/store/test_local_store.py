"""The local store alone: racing writers, death at any step, file-system faults."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StoreError
from jobs.store import open_store
from jobs.store.local import LocalStore
from jobs.store.probe import check_write_once

SYSTEM_CALLS = ("mkdir", "fsync", "link", "replace", "unlink")
OBJECT = b"object of the first writer" * 1000


def race(root: Path, gate: Any, number: int, results: Any) -> None:
    store = LocalStore(root)
    gate.wait(30)
    results.put((number, store.put_new("r/x", str(number).encode() * 50_000, writer=f"w{number}")))


def test_sixteen_racing_processes_have_one_winner(tmp_path: Path) -> None:
    context = get_context("spawn")
    gate, results = context.Barrier(16), context.Queue()
    racers = [context.Process(target=race, args=(tmp_path, gate, i, results)) for i in range(16)]
    for racer in racers:
        racer.start()
    outcomes = dict(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(30)
    [winner] = [number for number, won in outcomes.items() if won]
    store = LocalStore(tmp_path)
    info = store.head("r/x")
    assert store.get("r/x") == str(winner).encode() * 50_000
    assert info is not None
    assert info.metadata["writer"] == f"w{winner}"
    assert sorted(os.listdir(tmp_path / "r")) == [".x.meta.json", "x"]


def test_racing_threads_have_one_winner_each_time(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for round_ in range(50):
        won: list[int] = []
        gate = threading.Barrier(16)

        def write(i: int, key: str = f"k{round_}", gate: threading.Barrier = gate, won: list[int] = won) -> None:
            gate.wait(10)
            if store.put_new(key, b"%d" % i, writer=f"w{i}"):
                won.append(i)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        [winner] = won
        info = store.head(f"k{round_}")
        assert info is not None
        assert info.metadata["writer"] == f"w{winner}"


def die_at(step: int, *, after: bool, action: Callable[[], object]) -> bool:
    """Run the action in a forked child that dies at its n-th change of the disk; True if it got that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def deadly(call: Callable[..., object]) -> Callable[..., object]:
            def run(*args: object, **kwargs: object) -> object:
                nonlocal count
                count += 1
                if count == step and not after:
                    os._exit(9)
                try:
                    return call(*args, **kwargs)
                finally:
                    if count == step:
                        os._exit(9)

            return run

        for name in SYSTEM_CALLS:
            setattr(os, name, deadly(getattr(os, name)))
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("after", [False, True])
def test_death_at_any_step_leaves_nothing_or_the_whole_object(tmp_path: Path, after: bool) -> None:
    died_without, died_with = 0, 0
    for step in range(1, 100):
        store = LocalStore(tmp_path / str(step))

        def first(store: LocalStore = store) -> bool:
            return store.put_new("a/x", OBJECT, writer="first", metadata={"rows": "1"})

        if not die_at(step, after=after, action=first):
            break
        committed = store.get("a/x") is not None
        if committed:
            died_with += 1
            info = store.head("a/x")
            assert info is not None
            assert info.metadata == {"writer": "first", "rows": "1"}
            assert store.get("a/x") == OBJECT
            assert [found.key for found in store.list()] == ["a/x"]
        else:
            died_without += 1
            assert list(store.list()) == []
            assert list(store.list_folders()) == []

        if step % 2:
            assert store.put_new("a/x", OBJECT, writer="first", metadata={"rows": "1"})
            assert not store.put_new("a/x", b"second", writer="second")
        else:
            assert store.put_new("a/x", b"second", writer="second") is not committed
            assert first() is committed
        info = store.head("a/x")
        assert info is not None
        assert info.metadata["writer"] == ("first" if committed or step % 2 else "second")
    else:
        pytest.fail("the write never ended")
    assert died_without >= 4
    assert died_with >= 2


def test_death_while_replacing_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("x", b"old")
    step = 1
    while die_at(step, after=bool(step % 2), action=lambda: store.put("x", b"new")):
        assert store.get("x") in (b"old", b"new")
        assert [info.key for info in store.list()] == ["x"]
        step += 1
    assert step > 3
    assert store.get("x") == b"new"


def test_dot_files_are_nobodys_objects(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "only-litter").mkdir()
    (tmp_path / "only-litter" / ".x.123.tmp").write_bytes(b"half")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x").write_bytes(b"")
    assert list(store.list()) == []
    assert list(store.list_folders()) == []


def test_an_object_copied_without_dot_files_has_no_metadata(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_new("x", b"1", writer="w")
    (tmp_path / "y").write_bytes((tmp_path / "x").read_bytes())
    info = store.head("y")
    assert info is not None
    assert info.metadata == {}
    assert not store.put_new("y", b"2", writer="w")


def test_a_file_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match=r"Cannot use .*file") as caught:
        check_write_once(store)
    assert "part of the path is a file" in caught.value.hint
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError, match="directory"):
        LocalStore(tmp_path).put_new("x", b"", writer="w")


def test_an_unwritable_directory_is_explained() -> None:
    with pytest.raises(StoreError, match="Cannot use /proc") as caught:
        check_write_once(open_store("/proc/nightbatch"))
    assert caught.value.hint
    assert caught.value.exit_code == 4
