"""A small job is staged in its driver, a larger one on the cluster; both give the same plan and the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.environment import SUBMISSION_ID
from tests.support.harness import User, check_invariants, new_id, write_prompts
from workers.staging.local import MAX_BYTES, MAX_ROWS

BOTH = """
import json, sys
from pathlib import Path
import ray
from jobs.ledger import Ledger
from jobs.spec.build import build_spec
from jobs.store import open_store
from workers.staging import local, staging

ray.init(log_to_driver=False)
dataset, root = sys.argv[1:]
flags = {"engine.name": "fake", "input.keep": ["tag"], "shards.min_tokens": 1, "shards.target_count": 5}
spec = build_spec(dataset, flags)
paths = {}
for name, prepare in ("here", local.LocalRows.prepare), ("there", lambda work: None):
    ledger = Ledger(open_store(f"{root}/{name}"), "job")
    ledger.create(spec, writer="test")
    kinds = []
    staging.LocalRows.prepare = lambda work: kinds.append(prepare(work)) or kinds[-1]
    staging.stage(ledger, spec, "driver/test", lambda event: None)
    paths[name] = kinds[0] is not None
print(json.dumps(paths))
"""


def tree(folder: Path) -> dict[str, bytes]:
    """Every object below a folder, without the store's own notes of who wrote it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".meta.json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_both_ways_write_the_same(cluster_env: dict[str, str], tmp_path: Path) -> None:
    prompts = [f"prompt {n}" if n % 7 else "" for n in range(300)]
    dataset = write_prompts(tmp_path / "d.parquet", prompts, tag=list(map(str, range(300))))
    cluster = json.loads((Path(cluster_env["JOBS_STATE_DIR"]) / "cluster" / "cluster.json").read_text())
    env = os.environ | cluster_env | {"RAY_ADDRESS": cluster["address"], "RAY_AUTH_MODE": "token"}
    env |= {"RAY_AUTH_TOKEN_PATH": cluster["token_path"], "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    env.pop(SUBMISSION_ID, None)
    command = [sys.executable, "-c", BOTH, str(dataset), str(tmp_path)]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"here": True, "there": False}
    here, there = tree(tmp_path / "here"), tree(tmp_path / "there")
    assert len([name for name in here if "staged/part" in name]) > 3
    assert here == there


@pytest.mark.parametrize("prompts", [["a"] * (MAX_ROWS + 1), ["b" * (MAX_BYTES // 2)] * 3], ids=["rows", "bytes"])
def test_what_is_over_a_bound_is_staged_on_the_cluster(user: User, tmp_path: Path, prompts: list[str]) -> None:
    job_id = new_id()
    dataset = write_prompts(tmp_path / "d.parquet", prompts)
    any_rate = ("--max-error-rate", "1")
    user.run("submit", str(dataset), "--engine", "fake", *any_rate, "--id", job_id, "--wait", timeout_s=240)
    check_invariants(user.ledger(job_id), len(prompts))
    assert "Starting execution of Dataset" in user.run("logs", job_id, "--all").stdout
