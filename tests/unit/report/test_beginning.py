"""The trace of a job's beginning: measured by monotonic clocks, kept in the store, shown in status and report."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.ledger import Ledger
from jobs.starting import MAX_PHASES, StartClock, process_age_s, read_starts
from jobs.status.beginning import APPROXIMATE, beginning_of
from jobs.store.local import LocalStore
from schemas import keys
from schemas.starts import Phase, Start
from tests.unit.report.jobs_with_past import HOSTILE
from tests.unit.report.test_report import page_of
from tests.unit.results.ledgers import spec_of
from workers.engines import start_log


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(LocalStore(tmp_path), "demo")
    ledger.create(spec_of(name="demo"), writer="test")
    return ledger


def start(process: str, began_at: float, *phases: tuple[str, float, float], **given: object) -> Start:
    values = {"driver": "demo", "process": process, "machine": "here", "began_at": began_at, **given}
    parts = [Phase(name=name, begin_s=begin, took_s=took) for name, begin, took in phases]
    return Start.model_validate({**values, "phases": parts})


COMMAND = start("command", 100.0, ("command line", 0.0, 1.0), ("upload", 1.0, 0.5))
DRIVER = start("driver", 102.0, ("imports", 0.0, 2.0), (f"plan {HOSTILE}"[:80], 2.0, 1.0))
SLOW = start("replica", 101.0, ("engine's start", 0.0, 20.0), name="replica-0", first_row_s=21.0)
FAST = start("replica", 103.0, ("engine's start", 0.0, 8.0), ("weights", 3.0, 4.0), name="replica-1", first_row_s=9.0)


def test_a_clock_measures_phases_one_after_the_other_and_inside_each_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 1e9 - now[0])  # a wall clock that runs backwards changes no duration
    clock = StartClock("replica", age_s=2.0)
    clock.mark("imports")
    now[0] = 60.0
    clock.inside("weights", 58.0, 3.0)
    clock.inside("tokenizer", 51.0, 1.0)
    clock.mark("engine's start")
    now[0] = 61.0
    clock.first_row()
    clock.write(ledger, "demo", "replica-0")
    (found,) = read_starts(ledger)
    assert [(each.name, each.begin_s, each.took_s) for each in found.phases] == [
        ("imports", 0.0, 2.0),
        ("engine's start", 2.0, 10.0),
        ("tokenizer", 2.0, 1.0),
        ("weights", 7.0, 3.0),
        ("first row", 12.0, 1.0),
    ]
    assert (found.first_row_s, found.began_at) == (13.0, 1e9 - 52.0)
    for number in range(2 * MAX_PHASES):
        clock.mark(f"phase {number}")
    clock.write(ledger, "demo", "replica-0")
    assert read_starts(ledger) == [found], "the first one stands"
    clock.write(ledger, "demo", "replica-1")
    assert len(read_starts(ledger)[1].phases) == MAX_PHASES


def test_a_process_knows_its_age_and_a_failing_store_costs_the_trace_only(ledger: Ledger) -> None:
    assert 0.0 < process_age_s() < 86_400
    before = process_age_s()
    time.sleep(0.05)
    assert 0.04 < process_age_s() - before < 5
    ledger.store.put(ledger.key(f"{keys.STARTS}demo"), b"a file where a folder must be")
    StartClock("driver").write(ledger, "demo")


def test_the_first_replica_s_row_counts_and_what_is_unreadable_is_left_out(ledger: Ledger) -> None:
    for each in (SLOW, FAST, DRIVER, COMMAND):
        ledger.store.put(ledger.key(keys.start(each.driver, each.name or each.process)), each.to_json())
    ledger.store.put(ledger.key(keys.start("demo", "replica-2")), b"{")
    found = beginning_of(read_starts(ledger))
    assert found is not None
    assert [process.name for process in found.processes] == ["command", "driver", "replica-1"]
    assert (found.to_first_row_s, found.approximate) == (12.0, False)
    far = beginning_of([COMMAND, DRIVER, FAST.evolve(machine="there")])
    assert far is not None
    assert far.approximate
    partly = beginning_of([COMMAND])
    assert partly is not None
    assert partly.to_first_row_s is None
    assert beginning_of([]) is None
    assert beginning_of([SLOW.evolve(first_row_s=None)]) is None


@pytest.mark.parametrize("machine", ["here", "there"])
def test_status_and_report_show_it(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: str
) -> None:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path))
    for each in (COMMAND, DRIVER, FAST.evolve(machine=machine)):
        ledger.store.put(ledger.key(keys.start(each.driver, each.name or each.process)), each.to_json())
    assert main(["status", "demo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["beginning"]
    assert (told["to_first_row_s"], told["approximate"]) == (12.0, machine == "there")
    assert told["processes"][2]["phases"][1] == {"phase": "weights", "begin_s": 3.0, "took_s": 4.0}
    page = page_of(ledger, tmp_path / "page.html")
    assert [[text.strip() for text in row] for row in page.tables["beginning"][1:]] == [
        ["command", "command line", "0.0", "1.00"],
        ["command", "upload", "1.0", "0.50"],
        ["driver", "imports", "2.0", "2.00"],
        ["driver", f"plan {HOSTILE}"[:80], "4.0", "1.00"],
        ["replica-1", "engine's start", "3.0", "8.00"],
        ["replica-1", "weights", "6.0", "4.00"],
    ]
    assert "12.0 s from the command to the first row" in page.text
    assert (APPROXIMATE in page.text) == (machine == "there")
    assert page.tags["script"] == 0


def test_a_job_without_traces_is_shown_as_before(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path))
    assert main(["status", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["beginning"] is None
    assert "Beginning" not in page_of(ledger, tmp_path / "page.html").text


def test_what_vllm_logs_becomes_phases() -> None:
    logger, found = logging.getLogger("vllm"), []
    level, handlers = logger.level, list(logger.handlers)
    logger.setLevel(logging.INFO)
    try:
        with start_log.phases(lambda *phase: found.append(phase)):
            start_log.listen()  # as the engine's process does
            logger.info("Loading weights took %.2f seconds", 4.25)
            logger.info("%storch.compile took %.2f s in total", "", 31.5)
            logger.info("Graph capturing finished in %.0f secs, took %.2f GiB", 7, 1.3)
            logger.info("init engine (profile, create kv cache, warmup model) took %.2f s (compilation: 1 s)", 40.0)
            logger.info("Something else took 3 s")
        start_log.listen()
        logger.info("Loading weights took %.2f seconds", 4.25)
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    assert [(name, took) for name, _, took in found] == [
        ("weights", 4.25),
        ("compilation", 31.5),
        ("capture of CUDA graphs", 7.0),
        ("profiling, KV cache, warm-up", 40.0),
    ]
    assert all(abs(time.monotonic() - ended) < 60 for _, ended, _ in found)
    assert start_log.VARIABLE not in os.environ
