"""vLLM's engine process, forked off a server that imports vLLM while the actor does.

Inside a Ray actor vLLM spawns its engine's process, since one with Ray's threads must not be forked; what is spawned
imports vLLM anew before it loads a single weight: 17 to 26 s on a GPU host (vLLM 0.26). The standard library's fork
server has no threads, and imports while the actor itself imports and staging makes the plan.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

log = logging.getLogger(__name__)

PRELOADED = "vllm.v1.engine.async_llm"
"""What a process has imported that vLLM itself forks: it initialises no CUDA, which a fork cannot take over."""


class _Context(ForkServerContext):
    """Its processes have the environment of this one when they are made, not when the server was."""

    def Process(self, *, target: Callable[..., None], **given: Any) -> ForkServerProcess:  # type: ignore[override]  # noqa: N802
        arguments = (dict(os.environ), target, *given.pop("args", ()))
        return ForkServerProcess(target=_run, args=arguments, **given)


def start() -> None:
    """Start the server, which begins to import; returns at once. It ends when this process does."""
    multiprocessing.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()


def use() -> None:
    """Have vLLM fork its engine's process from the server, and that one spawn its workers, as it does in an actor."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    import vllm.v1.engine.utils as processes

    if not hasattr(processes, "get_mp_context"):  # private to vLLM: without it, the start takes longer
        log.warning("this version of vLLM does not let its engine's process be forked")
        return
    processes.get_mp_context = _Context


def _run(environment: Mapping[str, str], target: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    # Only what differs: a process whose whole environment is new cannot be given a title (setproctitle looks for the
    # command line before it), and people find engines by theirs.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment.items() - os.environ.items())
    target(*args, **kwargs)
