"""A person at a real terminal: `jobs watch`, `jobs logs -f`, and Ctrl-C."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import COMMAND, User, new_id, write_prompts
from tests.support.terminal import Terminal

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux: apt-get install tmux"),
]

SLOW = ("--set", "engine.fake.token_s=0.1", "--set", "engine.fake.start_s=12", "--max-num-seqs", "2")
SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=20")


@pytest.fixture
def terminal(user: User, tmp_path: Path) -> Iterator[Terminal]:
    environment = {name: value for name, value in user.environment().items() if name not in ("NO_COLOR", "COLUMNS")}
    environment["PATH"] = f"{Path(COMMAND).parent}:{environment['PATH']}"  # so that hints name it without its path
    opened = Terminal(tmp_path, environment)
    yield opened
    opened.close()


def test_watching_shows_the_job_live_and_ctrl_c_lets_it_go_on(user: User, terminal: Terminal, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "slow.parquet", ["" if n % 5 == 0 else f"prompt {n}" for n in range(301)])
    job_id = user.submit(str(dataset), "--engine", "fake", "--id", new_id("watch"), *SHARDS, *SLOW)
    jobs = shlex.quote(COMMAND)

    terminal.type(f"clear; {jobs} watch {job_id}; echo code=$?", "Enter")
    terminal.until("1 loading model, ", " s")
    running = terminal.until("RUNNING", "of 301", "1 ready", "EMPTY_PROMPT", "/s out", "ETA", "left", timeout_s=150)
    assert running.count(job_id) <= 3, f"frames replace each other:\n{running}"

    terminal.type("C-c")
    after = terminal.until("code=130")
    assert "goes on without you: batchjobs watch" in after
    assert f"batchjobs watch {job_id}" in after
    assert "committed" not in after, f"the picture is taken away:\n{after}"
    assert user.json("status", job_id)["state"] == "RUNNING"

    terminal.type(f"clear; {jobs} logs -f {job_id}; echo code=$?", "Enter")
    terminal.until("driver     | ", "replica-0  | ")
    terminal.type("C-c")
    assert "goes on" in terminal.until("code=130")

    user.run("cancel", job_id)
    terminal.type(f"clear; {jobs} watch {job_id}; echo code=$?", "Enter")
    assert "was cancelled by" in terminal.until("code=1")


def test_off_a_terminal_there_are_plain_lines(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "plain.parquet", [f"prompt {n}" for n in range(40)])
    job_id = new_id("plain")
    done = user.run("submit", str(dataset), "--engine", "fake", "--id", job_id, "--wait", *SHARDS, *SLOW[:2])
    lines = [line for line in done.stderr.splitlines() if " · " in line]
    assert lines
    assert all(line.startswith(("QUEUED", "PLANNING", "RUNNING")) for line in lines)
    assert "\x1b" not in done.stderr
    assert "succeeded: 40 rows, all ok." in done.stderr

    # What its driver kept of the past is in the report.
    page = user.run("report", job_id, "-").stdout
    assert 'aria-label="What each replica did"' in page
    assert re.search(r'<rect class="busy"', page)
    assert "engine: max_num_seqs" in page
