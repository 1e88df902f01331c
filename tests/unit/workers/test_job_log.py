"""The log in the store: bounded, written only when there is something new, never in the job's way."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from jobs.errors import StoreError
from jobs.ledger import Ledger
from jobs.logs.stored import StoredLogs
from jobs.store.local import LocalStore
from schemas import keys
from schemas.logs import MAX_MESSAGE_CHARS, MAX_SEGMENTS, SEGMENT_BYTES, LogLine
from workers.driver import job_log
from workers.driver.job_log import JobLog
from workers.logs import LineFormatter, RecentLines, set_up

log = logging.getLogger("workers.test_job_log")


class Store(LocalStore):
    """A store that counts writes and can fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writes: list[int] = []
        self.fails = False

    def put(self, key: str, data: bytes) -> None:
        if self.fails:
            raise StoreError("no store")
        self.writes.append(len(data))
        super().put(key, data)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def kept(store: Store) -> list[str]:
    return [line.message for lines in StoredLogs(Ledger(store, "demo")).read().values() for line in lines]


def line(message: str) -> LogLine:
    return LogLine(at=time.time(), level="INFO", source="replica-0", message=message)


def big(number: int) -> LogLine:
    return line(f"{number} ".ljust(MAX_MESSAGE_CHARS, "x"))


def test_lines_are_written_at_the_end_with_secrets_masked_and_without_the_text_of_exceptions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "quince-marmalade")
    with JobLog(store, "demo", "driver-1") as kept_log:
        log.warning("refused: quince-marmalade, password=hunter2")
        log.debug("too fine")
        logging.getLogger("vllm.engine").warning("a prompt")
        try:
            raise ValueError("text of a row")
        except ValueError:
            log.exception("it failed")
        kept_log.add([line("from a replica")])
    log.warning("after the end")
    refused, failed, replica = kept(store)
    assert refused == "refused: ***, password=***"
    assert failed.startswith("it failed (ValueError in test_job_log.py, line ")
    assert replica == "from a replica"
    assert "row" not in "".join(kept(store))


def test_nothing_is_written_when_nothing_is_new(store: Store) -> None:
    kept_log = JobLog(store, "demo", "driver-1")
    kept_log.write()
    assert store.writes == []
    kept_log.add([line("a")])
    kept_log.write()
    kept_log.write()
    assert len(store.writes) == 1


def test_the_log_is_bounded_and_says_what_is_missing(store: Store) -> None:
    kept_log = JobLog(store, "demo", "driver-1")
    per_segment = SEGMENT_BYTES // len(big(0).to_json_line())
    count = per_segment * (MAX_SEGMENTS + 3)
    for number in range(count):
        kept_log.add([big(number)])
        if number % 20 == 0:
            kept_log.write()
    kept_log.write()
    assert max(store.writes) <= SEGMENT_BYTES
    sizes = [info.size_bytes for info in store.list("demo/")]
    assert len(sizes) == MAX_SEGMENTS
    assert sum(sizes) <= MAX_SEGMENTS * SEGMENT_BYTES
    messages = kept(store)
    assert messages[0].startswith("Lines are missing here")
    assert messages[-1].startswith(f"{count - 1} ")
    numbers = [int(message.split()[0]) for message in messages[1:]]
    assert numbers == list(range(count - len(numbers), count))


def test_an_outage_loses_nothing_that_the_store_would_keep(store: Store) -> None:
    kept_log = JobLog(store, "demo", "driver-1")
    kept_log.add([line("before")])
    kept_log.write()
    store.fails = True
    for number in range(100):
        kept_log.add([big(number)])
        with pytest.raises(StoreError):
            kept_log.write()
    store.fails = False
    kept_log.write()
    assert [message.split()[0] for message in kept(store)] == ["before", *map(str, range(100))]


def test_a_store_that_hangs_holds_up_the_end_for_a_bounded_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "LAST_WRITE_S", 0.1)
    monkeypatch.setattr(store, "put", lambda *_: time.sleep(5))
    began = time.monotonic()
    with JobLog(store, "demo", "driver-1"):
        log.info("a")
    assert time.monotonic() - began < 3


def test_lines_are_written_at_intervals_while_the_store_comes_and_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "WRITE_EVERY_S", 0.02)
    store.fails = True
    with JobLog(store, "demo", "driver-1"):
        log.warning("a")
        time.sleep(0.1)
        store.fails = False
        deadline = time.monotonic() + 20
        while kept(store) != ["a"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_driver_of_the_same_id_on_another_cluster_goes_on_where_the_first_one_ended(store: Store) -> None:
    for message in ("first", "second"):
        kept_log = JobLog(store, "demo", "demo")
        kept_log.add([line(message)])
        kept_log.write()
    assert kept(store) == ["first", "second"]
    assert [info.key for info in store.list("demo/")] == [f"demo/{keys.log('demo', n)}" for n in (0, 1)]


def test_recent_lines_are_given_once_and_lost_ones_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = RecentLines(max_lines=3)
    for number in range(5):
        recent.keep(line(str(number)))
    batch = recent.since(0)
    assert ([each.message for each in batch.lines], batch.next, batch.num_missing) == (["2", "3", "4"], 5, 2)
    assert recent.since(5).lines == ()
    recent.keep(line("5"))
    assert [each.message for each in recent.since(batch.next).lines] == ["5"]
    assert recent.since(4).num_missing == 0


def test_each_line_of_a_message_is_printed_with_time_and_level() -> None:
    record = logging.LogRecord("workers.a", logging.WARNING, "a.py", 1, "two\n%s", ("lines",), None)
    record.created = 1772330400.25
    prefix = "2026-03-01T02:00:00.250Z WARNING workers.a: "
    assert LineFormatter().format(record) == f"{prefix}two\n{prefix}lines"


def test_setting_up_twice_prints_each_line_once() -> None:
    set_up()
    before = list(logging.getLogger().handlers)
    set_up()
    assert logging.getLogger().handlers == before
