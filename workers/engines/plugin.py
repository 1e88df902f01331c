"""vLLM's `vllm.general_plugins` entry point: runs in every process that vLLM starts."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

_V2_RUNNER_WORKS = "0.32"
"""First vLLM version that we use whose V2 model runner can run InternLM2. That of 0.26 omits an argument for which the
model's `forward` has no default, and the engine dies while it captures CUDA graphs."""

_watching = threading.Event()


def register() -> None:
    """Register `model_type: internlm2` with transformers, make vLLM's processes end with their parents, and let them
    note the phases of their start.

    May be called any number of times. A process that vLLM started (engine core, workers) ends with its parent, however
    it was started: otherwise vLLM's engine core outlives a parent that is killed with SIGKILL, and holds its memory
    for ever (seen with 0.32).
    """
    from packaging.version import Version
    from transformers import AutoConfig
    from vllm import __version__

    from workers.engines import start_log
    from workers.engines.internlm2 import InternLM2Config

    start_log.listen()
    AutoConfig.register("internlm2", InternLM2Config, exist_ok=True)
    if Version(__version__) < Version(_V2_RUNNER_WORKS):
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    parent = multiprocessing.parent_process()
    if parent is not None and not _watching.is_set():
        _watching.set()
        threading.Thread(target=_end_with, args=(parent,), name="parent-watch", daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()  # waits on the parent's pipe, not its pid: a fork server's processes are its children
    os._exit(1)
