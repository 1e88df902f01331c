"""The plugin inside vLLM's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.demo.random_model import write_random_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

ENGINE = """
import sys, time
from vllm import LLM
if __name__ == "__main__":
    llm = LLM(model=sys.argv[1], dtype="float32", max_model_len=128, max_num_seqs=2, enforce_eager=True,
              kv_cache_memory_bytes=16 * 2**20)
    print("ready", flush=True)
    time.sleep(600)
"""


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        found |= {child} | descendants(child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_killed_parent_takes_its_engine_with_it(tmp_path: Path) -> None:
    write_random_model(tmp_path / "m")
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "m")],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        env=environment,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        try:
            while (line := parent.stdout.readline()) != "ready\n":
                assert line, (tmp_path / "log").read_text()[-2000:]
            children = descendants(parent.pid)
            assert len(children) >= 2, "an engine core and a worker"
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while (left := {pid for pid in children if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
