"""A job's log is read from the cluster while that runs the driver, and from the store for ever after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.submission import Submission
from jobs.errors import ClusterError
from jobs.ledger import Ledger
from jobs.logs import reader as reader_module
from jobs.logs.reader import LogReader
from jobs.store.local import LocalStore
from schemas import keys
from schemas.logs import LogLine

RAW = (
    "2026-03-01T02:00:00.123Z INFO workers.driver.driver: from the cluster\n"
    "noise of a library\n"
    "2026-03-01T02:00:05.000Z INFO workers.driver.driver: more\n"
)


class Cluster:
    """A cluster that has the output of one driver."""

    def __init__(self, raw: str = RAW) -> None:
        self.raw = raw

    def logs(self, submission_id: str) -> str:
        return self.raw

    def tail(self, submission_id: str) -> Iterator[str]:
        yield self.raw
        yield "2026-03-01T02:00:09.000Z ERROR workers.driver.entry: the last\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(LocalStore(tmp_path), "demo")


def keep(ledger: Ledger, driver: str, segment: int, *messages: str, at: float = 0.0) -> None:
    lines = [LogLine(at=at + n, level="INFO", source="driver", message=each) for n, each in enumerate(messages)]
    ledger.store.put(ledger.key(keys.log(driver, segment)), b"".join(line.to_json_line() for line in lines))


def submission(driver: str = "demo", *, status: str = "RUNNING", exit_code: int | None = None) -> Submission:
    return Submission(
        submission_id=driver,
        status=status,
        message="",
        started_at=1000.0,
        ended_at=None,
        metadata={},
        exit_code=exit_code,
    )


def read(ledger: Ledger, *submissions: Submission, everything: bool = False) -> list[str]:
    cluster: Any = Cluster()
    return [line.text for line in LogReader(ledger, cluster, submissions, everything=everything).so_far()]


def test_a_driver_at_work_is_read_from_its_cluster_and_an_earlier_one_from_the_store(ledger: Ledger) -> None:
    keep(ledger, "demo", 0, "stored", at=2000.0)
    keep(ledger, "earlier", 0, "long ago", at=10.0)
    assert read(ledger, submission()) == ["long ago", "from the cluster", "more"]
    assert read(ledger, submission(), everything=True) == ["long ago", "from the cluster", "noise of a library", "more"]


def test_the_store_has_all_of_a_driver_that_has_ended_in_order_but_not_of_one_that_was_killed(ledger: Ledger) -> None:
    keep(ledger, "demo", 0, "stored", at=2000.0)
    assert read(ledger, submission(status="SUCCEEDED", exit_code=0)) == ["stored"]
    assert read(ledger, submission(status="FAILED", exit_code=143)) == ["stored"]
    assert read(ledger, submission(status="FAILED", exit_code=-9)) == ["from the cluster", "more"]
    assert read(ledger, submission(status="FAILED")) == ["from the cluster", "more"]
    assert "noise of a library" in read(ledger, submission(status="SUCCEEDED", exit_code=0), everything=True)


def test_lines_of_a_lost_cluster_come_before_those_of_the_next_driver_of_the_same_id(ledger: Ledger) -> None:
    keep(ledger, "demo", 0, "on the lost cluster", at=10.0)
    assert read(ledger, submission()) == ["on the lost cluster", "from the cluster", "more"]


def test_without_a_cluster_the_store_is_read_in_order_and_gaps_are_named(ledger: Ledger) -> None:
    keep(ledger, "b", 3, "four", at=40.0)
    keep(ledger, "b", 2, "three", at=30.0)
    keep(ledger, "a", 0, "one", "two", at=10.0)
    reader = LogReader(ledger, None, (), everything=True)
    texts = [line.text for line in reader.so_far()]
    assert texts == [
        "one",
        "two",
        "Lines are missing here: the last 4 MiB of a driver's log are kept.",
        "three",
        "four",
    ]
    assert reader.only_stored


def test_lines_that_replicas_handed_over_late_are_shown_in_order_of_time(ledger: Ledger) -> None:
    keep(ledger, "demo", 0, "first", at=10.0)
    keep(ledger, "demo", 1, "third", at=30.0)
    keep(ledger, "demo", 2, "second", at=20.0)
    reader = LogReader(ledger, None, (), everything=False)
    assert [line.text for line in reader.so_far()] == ["first", "second", "third"]
    assert list(reader.following(lambda: True)) == []


def test_what_this_version_cannot_read_is_left_out(ledger: Ledger) -> None:
    line = b'{"at": 1, "level": "INFO", "source": "driver", "message": "fine", "later": 1}\n'
    ledger.store.put(ledger.key(keys.log("demo", 0)), b'{"cut\n' + line + b"\xff\n")
    ledger.store.put(ledger.key(f"{keys.LOGS}demo/foreign.txt"), b"no log")
    assert [line.text for line in LogReader(ledger, None, (), everything=False).so_far()] == ["fine"]


def test_a_job_without_any_log_says_where_to_look(ledger: Ledger) -> None:
    with pytest.raises(ClusterError, match="no log of job demo") as raised:
        LogReader(ledger, None, (), everything=False).so_far()
    assert "jobs status demo" in raised.value.hint


def test_following_goes_on_after_what_was_read(ledger: Ledger) -> None:
    cluster: Any = Cluster()
    reader = LogReader(ledger, cluster, (submission(),), everything=False)
    assert len(reader.so_far()) == 2
    assert [line.text for line in reader.following(lambda: True)] == ["the last"]


def test_following_a_job_of_an_unknown_cluster_looks_at_the_store_until_no_driver_is_at_work(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "LOOK_S", 0.0)
    keep(ledger, "demo", 0, "one", "two")
    reader, looks = LogReader(ledger, None, (), everything=False), iter([False, False, True])
    assert [line.text for line in reader.so_far()] == ["one", "two"]

    def is_over() -> bool:
        over = next(looks)
        if not over:
            keep(ledger, "demo", 0, "one", "two", "three")
        else:
            keep(ledger, "demo", 1, "four", at=4.0)
            keep(ledger, "next", 0, "resumed", at=5.0)
        return over

    assert [line.text for line in reader.following(is_over)] == ["three", "four", "resumed"]
