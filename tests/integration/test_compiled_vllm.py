"""Compiled code that travels: what one engine has compiled, another with empty caches does not compile again.

On CPUs the product does not compile; these engines do, by the same code of vLLM and PyTorch (C++ instead of Triton).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import workers.demo
from jobs.models.compiled import folder_of, manifest_digest
from jobs.models.encoding import load_encoder
from jobs.models.snapshot import fingerprint
from schemas.spec import EngineSpec
from workers.engines.vllm import VllmEngine
from workers.engines.warm_up import warm_up

MODEL = Path(workers.demo.__file__).parent / "model"
SPEC = EngineSpec(name="vllm", dtype="float32", max_num_seqs=16, max_num_batched_tokens=256, max_model_len=512)


class Compiling(VllmEngine):
    """An engine that compiles on a CPU too."""

    def _arguments(self, limits: Any) -> dict[str, Any]:
        return super()._arguments(limits) | {"enforce_eager": False}


async def start(model: str) -> dict[str, Any]:
    """Start as a replica does, with what is pinned now; tell how long it took and what is logged of compiled code."""
    from workers.engines import compiled

    said: list[str] = []
    listening = logging.Handler()
    listening.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    compiled.log.addHandler(listening)
    compiled.log.setLevel(logging.INFO)
    pins = {"fingerprint": fingerprint(model), "compiled": manifest_digest(model)}
    engine = Compiling(SPEC, model, load_encoder(model), on_gpu=False, **pins)
    began = time.monotonic()
    await engine.start()
    took_s = time.monotonic() - began
    await engine.stop()
    return {"took_s": took_s, "said": said}


def on_a_node(node: Path, call: str, model: Path) -> Any:
    """Run in a process whose home and temporary directory are a node's own."""
    (node / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HOME": str(node), "TMPDIR": str(node / "tmp")}
    done = subprocess.run(
        [sys.executable, __file__, call, str(model)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def kernels(node: Path) -> set[str]:
    """Names of the compiled kernels on a node: each has the hash of its source."""
    return {path.name for path in node.rglob("*.main.so")}


@pytest.mark.nightly
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_a_second_node_does_not_compile_what_the_first_has(tmp_path: Path) -> None:
    model = tmp_path / "models/demo"
    shutil.copytree(MODEL, model)
    cold = on_a_node(tmp_path / "a", "start", model)
    assert cold["said"] == []
    on_a_node(tmp_path / "maker", "warm-up", model)
    archives = {path: path.read_bytes() for path in folder_of(model).iterdir()}

    warm = on_a_node(tmp_path / "b", "start", model)
    (unpacked,) = (tmp_path / "b/.cache/nightbatch/compiled").iterdir()
    assert str(unpacked) in warm["said"][-1]
    newer = {path.name for path in (tmp_path / "b").rglob("*.main.so") if unpacked not in path.parents}
    built = {path.name for path in unpacked.rglob("*.main.so") if path.stat().st_mtime > 1}
    print(f"cold {cold['took_s']:.1f} s, warm {warm['took_s']:.1f} s; {len(kernels(tmp_path / 'b'))} kernels")
    assert len(kernels(tmp_path / "b")) >= 5
    assert not newer | built, "unpacked files are of 1970; what is newer was compiled here"
    assert warm["took_s"] < cold["took_s"]
    assert {path: path.read_bytes() for path in folder_of(model).iterdir()} == archives, "workers only read"


if __name__ == "__main__":
    if sys.argv[1] == "warm-up":
        made = asyncio.run(warm_up(sys.argv[2], SPEC, on_gpu=False, engine=Compiling))
        print(made.model_dump_json())
    else:
        print(json.dumps(asyncio.run(start(sys.argv[2]))))
