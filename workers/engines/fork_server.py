"""Fork server for vLLM's engine process, which imports vLLM while the actor does.

Inside a Ray actor vLLM spawns its engine process, since a process with Ray's threads must not be forked. The spawned
process imports vLLM again before it loads a single weight: 17 to 26 s on a GPU host (vLLM 0.26). The standard
library's fork server has no threads, and imports while the actor itself imports and staging makes the plan.
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
"""Module already imported in processes that vLLM forks. It initialises no CUDA, which a fork cannot take over."""


class _Context(ForkServerContext):
    """Context whose processes get this process's environment as it is when they start, not when the server started."""

    def Process(self, *, target: Callable[..., None], **given: Any) -> ForkServerProcess:  # type: ignore[override]  # noqa: N802
        arguments = (dict(os.environ), target, *given.pop("args", ()))
        return ForkServerProcess(target=_run, args=arguments, **given)


def start() -> None:
    """Start the server, which begins to import, and return at once. The server ends when this process does."""
    multiprocessing.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()


def use() -> None:
    """Make vLLM fork its engine process from the server; that process spawns its workers, as it does in an actor."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    import vllm.v1.engine.utils as processes

    if not hasattr(processes, "get_mp_context"):  # private to vLLM: without it, the start takes longer
        log.warning("this version of vLLM cannot fork its engine's process; the engine starts more slowly")
        return
    processes.get_mp_context = _Context


def _run(environment: Mapping[str, str], target: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    # Change only what differs: a process whose whole environment is replaced cannot be given a title (setproctitle
    # looks for the command line before the environment), and people find engines by their titles.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment.items() - os.environ.items())
    target(*args, **kwargs)
