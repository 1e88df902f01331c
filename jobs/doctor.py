"""Checks of everything that a job needs, each with its fix."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from jobs import cluster, shell
from jobs.errors import JobsError
from jobs.settings import Settings
from jobs.submission import Submitter


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        fix: what to do about it; "" if there is nothing to do.
    """

    check: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check; none raises."""
    yield _versions()
    submitter, finding = _cluster(settings)
    yield finding
    yield _gpus(submitter)
    yield _store(settings.root)
    if settings.model is not None:
        yield _model(settings.model)
    yield _shell()


def _versions() -> Finding:
    found = f"Python {platform.python_version()}"
    try:
        return Finding(check="versions", level="ok", detail=f"{found}, Ray {version('ray')}")
    except PackageNotFoundError:
        fix = "Install the package again: pip install nightbatch"
        return Finding(check="versions", level="fail", detail=f"{found}, Ray is not installed", fix=fix)


def _cluster(settings: Settings) -> tuple[Submitter | None, Finding]:
    address, token_path = settings.address, settings.token_path
    if address is None:
        embedded = cluster.current()
        if embedded is None:
            return None, Finding(
                check="cluster", level="ok", detail="no address set; submit starts one on this machine"
            )
        address, token_path = embedded.dashboard_url, embedded.token_path
    try:
        submitter = Submitter(address, token_path)
        found = submitter.ray_version
    except JobsError as error:
        return None, Finding(check="cluster", level="fail", detail=str(error), fix=error.hint)
    try:
        ours = version("ray")
    except PackageNotFoundError:
        ours = "none"
    if found.split(".")[:2] != ours.split(".")[:2]:
        return submitter, Finding(
            check="cluster",
            level="warn",
            detail=f"{address} runs Ray {found}, this client has {ours}",
            fix=f"Install the cluster's version here: pip install 'ray[default]=={found}'",
        )
    return submitter, Finding(check="cluster", level="ok", detail=f"{address} answers and accepts us (Ray {found})")


def _gpus(submitter: Submitter | None) -> Finding:
    try:
        resources = submitter.resources() if submitter else {"GPU": float(_local_gpus())}
    except JobsError as error:
        return Finding(check="gpus", level="fail", detail=str(error), fix=error.hint)
    where = "on the cluster" if submitter else "on this machine"
    count = round(resources.get("GPU", 0))
    if count:
        return Finding(check="gpus", level="ok", detail=f"{count} {where}")
    fix = "A 20B model needs GPUs: join a cluster that has some, --address http://HOST:8265."
    return Finding(check="gpus", level="warn", detail=f"none {where}; replicas would run on CPUs", fix=fix)


def _local_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _store(root: str) -> Finding:
    from jobs.store import open_store
    from jobs.store.probe import check_write_once

    try:
        check_write_once(open_store(root, patience_s=5.0))
    except JobsError as error:
        return Finding(check="store", level="fail", detail=str(error), fix=error.hint)
    return Finding(check="store", level="ok", detail=f"{root} is writable and creates objects only once")


def _model(model: str) -> Finding:
    """Whether a job could use the model, and what would run: the numbers that decide its answers."""
    from jobs.models.encoder import PromptEncoder
    from jobs.models.snapshot import fingerprint

    if not Path(model).exists():
        fix = "Give --model a directory on this machine, or make sure that every node of the cluster has this one."
        return Finding(check="model", level="warn", detail=f"{model} is not on this machine", fix=fix)
    try:
        pinned, encoder = fingerprint(model), PromptEncoder.load(model)
    except JobsError as error:
        return Finding(check="model", level="fail", detail=str(error), fix=error.hint)
    info = encoder.info
    built_in = "InternLM2's own" if info.model_type == "internlm2" else "chat template of the directory"
    detail = [
        f"{info.architecture}, {info.num_layers} layers, {info.dtype or 'unknown dtype'}",
        f"context {info.max_model_len:,} tokens",
        f"bos {encoder.bos_id}, eos {', '.join(map(str, info.eos_ids))}",
        f"chat format: {built_in if encoder.has_chat_format else 'none, use --no-chat'}",
        f"fingerprint {pinned}",
    ]
    return Finding(check="model", level="ok", detail=" · ".join(detail))


def _shell() -> Finding:
    name = Path(os.environ.get("SHELL", "")).name
    if os.environ.get(shell.MARK):
        return Finding(check="shell", level="ok", detail="bare `jobs` reaches this program")
    if name not in shell.SHELLS:
        name = shell.SHELLS[0]
    fix = f'Add to your shell\'s start file: eval "$(batchjobs shell-init {name})"; or type batchjobs.'
    return Finding(check="shell", level="warn", detail="bare `jobs` is the shell's own command", fix=fix)
