"""Lines of a log: whole, with their speaker, and told apart from what other libraries print."""

from __future__ import annotations

import pytest

from jobs.logs.lines import Line, RawLines, parsed, stored
from schemas.logs import LogLine

RAW = (
    "2026-03-01T02:00:00.123Z INFO workers.driver.replicas: replica-0 is ready\n"
    "(replica-0 pid=71) 2026-03-01T02:00:01.500Z WARNING workers.replica.replica: shard 3 is slow\n"
    "\n"
    'nightbatch-interruption: {"code": "STOPPED"}\n'
    "(replica-12.1 pid=72, ip=10.0.0.7) (EngineCore pid=9) INFO loaded\n"
)
LINES = [
    "driver     | 2026-03-01 02:00:00Z replica-0 is ready",
    "replica-0  | 2026-03-01 02:00:01Z WARNING: shard 3 is slow",
    "replica-12.1 | (EngineCore pid=9) INFO loaded",
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_stay_whole_however_the_log_comes(size: int) -> None:
    lines = RawLines()
    pieces = [RAW[at : at + size] for at in range(0, len(RAW), size)]
    assert [str(line) for piece in pieces for line in lines.feed(piece)] == LINES
    assert lines.flush() == []


def test_a_last_line_without_an_end_is_not_lost() -> None:
    lines = RawLines()
    assert lines.feed("killed in mid-") == []
    assert list(map(str, lines.flush())) == ["driver     | killed in mid-"]


def test_other_processes_and_hostile_lines() -> None:
    assert str(parsed("(pid=7) hello")) == "worker     | hello"
    assert str(parsed("(map(stage) pid=7) hello")) == "map(stage) | hello"
    assert str(parsed("a\x1b[31mb\x1b[0m\x1b]0;title\x07 \rc")) == "driver     | ab�]0;title�  c"


@pytest.mark.parametrize(
    ("raw", "is_own"),
    [
        ("2026-03-01T02:00:00.123Z INFO workers.logs: a", True),
        ("2026-03-01 02:00:00,123 ERROR jobs.salvage: as older drivers print it", True),
        ("2026-03-01T02:00:00.123Z INFO vllm.engine: a", False),
        ("2026-03-01T02:00:00.123Z INFO workersx: a", False),
        ("2026-03-01T02:00:00.123Z NOISE workers.logs: a", False),
        ("Traceback (most recent call last):", False),
        ("said 2026-03-01T02:00:00.123Z INFO workers.logs: a", False),
    ],
)
def test_our_own_lines_are_known_by_their_form(raw: str, is_own: bool) -> None:
    assert parsed(raw).is_own is is_own
    assert parsed(f"(replica-0 pid=1) {raw}").is_own is is_own


def test_lines_are_chosen_by_level_and_source() -> None:
    line = Line(source="replica-1.2", text="a", time="2026-03-01 02:00:00Z", level="WARNING")
    assert line.matches(None, None)
    assert [line.matches(level, None) for level in ("INFO", "WARNING", "ERROR")] == [True, True, False]
    wanted = {"replica-1": True, "replica-1.2": True, "replica-1.1": False, "replica": False, "driver": False}
    assert {source: line.matches(None, source) for source in wanted} == wanted
    assert not Line(source="driver", text="of a library").matches("INFO", None)


def test_a_kept_line_with_several_lines_looks_as_it_was_printed() -> None:
    kept = LogLine(at=1772330400.9996, level="ERROR", source="driver", message="one\ntwo")
    assert list(map(str, stored(kept))) == [
        "driver     | 2026-03-01 02:00:00Z ERROR: one",
        "driver     | 2026-03-01 02:00:00Z ERROR: two",
    ]
