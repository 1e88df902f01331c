"""`python -m workers.engines.warm_up MODEL ENGINE`: compiles a model once, and archives the code beside it.

ENGINE is an `EngineSpec` as JSON. This is the program behind `jobs model warm-up`: its last line of output is a JSON
object, `{"file": …, "size_bytes": …, "seconds": …}`, or `{"error": …, "hint": …}` with exit code 2.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from jobs.models.compiled import add_pack
from jobs.models.encoding import load_encoder
from jobs.models.snapshot import fingerprint
from schemas.compiled import CompiledPack
from schemas.spec import EngineSpec
from workers.engines.compiled import caches, made_for
from workers.engines.vllm import VllmEngine


async def warm_up(model: str, spec: EngineSpec, *, on_gpu: bool, engine: type[VllmEngine] = VllmEngine) -> CompiledPack:
    """Start an engine with empty caches, stop it, and archive what it has compiled.

    Args:
        engine: class of the engine.
    """
    with tempfile.TemporaryDirectory(prefix="warm-up-") as work:
        os.environ.update(caches(Path(work)))
        started = engine(spec, model, load_encoder(model), on_gpu=on_gpu)
        try:
            await started.start()
        finally:
            await started.stop()
        identity = fingerprint(model, weights=spec.load_format != "dummy")
        return add_pack(model, made_for(identity, on_gpu=on_gpu), Path(work))


def main() -> None:
    """Warm up and print what was made."""
    import torch

    began = time.monotonic()
    if not torch.cuda.is_available():
        hint = "Run it on a machine with the GPUs of the cluster; on CPUs vLLM is run without a compiler."
        print(json.dumps({"error": "There is no GPU here, so nothing would be compiled.", "hint": hint}))
        sys.exit(2)
    model, spec = sys.argv[1], EngineSpec.from_json(sys.argv[2].encode())
    pack = asyncio.run(warm_up(model, spec, on_gpu=True))
    told = {"file": pack.file, "size_bytes": pack.size_bytes, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
