"""vLLM's `vllm.general_plugins` entry point: runs in every process that vLLM starts."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

_POLL_S = 1.0
_watching = threading.Event()


def register() -> None:
    """Make `model_type: internlm2` known to transformers, and tie vLLM's processes to their parents' lives.

    May be called any number of times. A process that vLLM started (engine core, workers) ends within about a
    second of its parent's end: vLLM's engine core outlives a parent that is killed with SIGKILL, and holds
    its memory for ever (seen with 0.32).
    """
    from transformers import AutoConfig

    from workers.engines.internlm2 import InternLM2Config

    AutoConfig.register("internlm2", InternLM2Config, exist_ok=True)
    if multiprocessing.parent_process() is not None and not _watching.is_set():
        _watching.set()
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent-watch", daemon=True).start()


def _end_with(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_POLL_S)
    os._exit(1)
