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

OUR_ENGINE = """
import asyncio, sys
from jobs.models.encoding import load_encoder
from schemas.spec import EngineSpec
from workers.engines.vllm import VllmEngine

async def main(model):
    spec = EngineSpec(max_num_seqs=2, max_model_len=128)
    await VllmEngine(spec, model, load_encoder(model), on_gpu=False).start()
    print("ready", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
"""


def descendants(pid: int, depth: int = 9) -> set[int]:
    """Of all threads: it may not be the first that has started a process."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")] if depth else []
    children = {int(child) for found in lists for child in found}
    return children.union(*(descendants(child, depth - 1) for child in children))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("code", [ENGINE, OUR_ENGINE], ids=["vllm's own", "ours"])
def test_a_killed_parent_takes_its_engine_with_it(tmp_path: Path, code: str) -> None:
    write_random_model(tmp_path / "m")
    script = tmp_path / "engine.py"
    script.write_text(code)
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
            cores = [pid for pid in children if title(pid).startswith("VLLM::EngineCor")]
            assert len(cores) == 1, "people find engines by this"
            forked = cores[0] not in descendants(parent.pid, depth=1)
            assert forked == (code is OUR_ENGINE), "ours is a child of the fork server, which has imported vLLM"
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while (left := {pid for pid in children if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
