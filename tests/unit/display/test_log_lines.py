"""Lines of a log: whole, and with their speaker."""

from __future__ import annotations

import pytest

from jobs.cli.log_lines import LogLines, labelled

RAW = (
    "2026-03-01 02:00:00 INFO workers.driver.replicas: replica-0 is ready\n"
    "(replica-0 pid=71) shard 3 ours: 500 rows\n"
    "\n"
    "(replica-12.1 pid=72, ip=10.0.0.7) (EngineCore pid=9) INFO loaded\n"
)
LINES = [
    "driver     | 2026-03-01 02:00:00 INFO workers.driver.replicas: replica-0 is ready",
    "replica-0  | shard 3 ours: 500 rows",
    "replica-12.1 | (EngineCore pid=9) INFO loaded",
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_stay_whole_however_the_log_comes(size: int) -> None:
    lines = LogLines()
    pieces = [RAW[at : at + size] for at in range(0, len(RAW), size)]
    assert [line for piece in pieces for line in lines.feed(piece)] == LINES
    assert lines.flush() == []


def test_a_last_line_without_an_end_is_not_lost() -> None:
    lines = LogLines()
    assert lines.feed("killed in mid-") == []
    assert lines.flush() == ["driver     | killed in mid-"]


def test_other_processes_and_hostile_lines() -> None:
    assert labelled("(pid=7) hello") == "worker     | hello"
    assert labelled("(map(stage) pid=7) hello") == "map(stage) | hello"
    assert labelled("a\x1b[31mb\x1b[0m\x1b]0;title\x07 \rc") == "driver     | ab�]0;title�  c"
