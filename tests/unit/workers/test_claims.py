"""Claims of submissions: who drives, and what an entrypoint that comes second sees of the driver; real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.driver.claims import KILLED, Claim

HEAD = """
import os, signal, sys, time
from workers.driver.claims import Claim
claim = Claim("here:1", "job-1")
"""

DRIVER = """
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
claim.begin(int(sys.argv[1]))
print("begun", flush=True)
while not stopped:
    time.sleep(0.02)
claim.end(int(sys.argv[1]), 7)
os._exit(7)
"""

ENTRYPOINT = """
assert claim.take() is None
print("attends", flush=True)
print(claim.attend(), flush=True)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: str, fd: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HEAD + code, *arguments]
        pass_fds = () if fd is None else (fd,)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def driver(start: Start) -> subprocess.Popen[str]:
    """A driver to which this process, as a pool does, has passed the claim."""
    claim = Claim("here:1", "job-1")
    file = claim.take()
    assert file is not None
    process = start(DRIVER, str(file), fd=file)
    assert line(process) == "begun"
    os.close(file)
    return process


def test_one_process_takes_a_claim() -> None:
    first = Claim("here:1", "job-1").take()
    assert first is not None
    assert Claim("here:1", "job-1").take() is None
    assert Claim("here:2", "job-1").take() is not None, "another cluster's submission of the same name"
    assert Claim("here:1", "job-2").take() is not None


def test_an_entrypoint_passes_sigterm_on_and_ends_as_its_driver(start: Start) -> None:
    driving = driver(start)
    entrypoint = start(ENTRYPOINT)
    assert line(entrypoint) == "attends"
    time.sleep(0.3)
    assert driving.poll() is None
    entrypoint.send_signal(signal.SIGTERM)
    assert line(entrypoint) == "7"
    assert driving.wait(10) == 7


def test_an_entrypoint_that_comes_after_the_end_finds_the_exit_code(start: Start) -> None:
    driving = driver(start)
    driving.send_signal(signal.SIGTERM)
    assert driving.wait(10) == 7
    entrypoint = start(ENTRYPOINT)
    assert [line(entrypoint), line(entrypoint)] == ["attends", "7"]


def test_an_entrypoint_sees_that_its_driver_was_killed(start: Start) -> None:
    driving = driver(start)
    entrypoint = start(ENTRYPOINT)
    assert line(entrypoint) == "attends"
    driving.kill()
    assert line(entrypoint) == str(KILLED)


def test_an_entrypoint_drives_itself_if_the_driver_never_began(start: Start) -> None:
    file = Claim("here:1", "job-1").take()
    assert file is not None
    entrypoint = start(ENTRYPOINT)
    assert line(entrypoint) == "attends"
    time.sleep(0.3)
    assert entrypoint.poll() is None, "it may yet begin"
    os.close(file)
    assert line(entrypoint) == "None"


def test_a_driver_sees_the_end_of_its_entrypoint(start: Start) -> None:
    driver(start)
    claim = Claim("here:1", "job-1")
    assert not claim.await_entrypoint_end(0.2), "it has not started"
    entrypoint = start(ENTRYPOINT)
    assert line(entrypoint) == "attends"
    follower = start("print(claim.await_entrypoint_end(10), flush=True)")
    time.sleep(0.5)
    assert follower.poll() is None
    entrypoint.kill()
    assert line(follower) == "True"


def test_a_dropped_claim_is_forgotten() -> None:
    claim = Claim("here:1", "job-1")
    claim.take()
    claim.drop()
    assert not claim.folder.exists()


def test_somebody_elses_folder_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"nightbatch-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        Claim("here:1", "job-1")
