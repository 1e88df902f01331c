"""Checks of everything that a job needs, each with its fix."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from jobs import shell
from jobs.cluster import embedded as cluster
from jobs.cluster.submission import Submitter
from jobs.doctor import gpus
from jobs.doctor.cluster_report import ask, own_versions
from jobs.doctor.gpus import Gpu
from jobs.errors import JobsError, MissingPackage
from jobs.packages import check_packages, install_hint
from jobs.settings import Settings
from schemas.probe import ClusterReport

MAX_SKEW_S = 30.0
REFUSED_SKEW_S = 600.0
"""Clocks that differ by more than this are about to be refused: S3 signatures hold for 15 minutes."""


_OPTIONAL = {"sql": "duckdb", "serve": "fastapi"}
"""Extras of commands that work on this machine, and a module that each brings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        fix: what to do about it; "" if there is nothing to do.
    """

    check: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check; none raises."""
    yield _client()
    yield _packages(settings)
    submitter, finding = _cluster(settings)
    yield finding
    if submitter is not None:
        yield from _inside(submitter, settings)
    elif finding.level == "ok":
        yield _gpus({"this machine": gpus.look()})
    yield _store(settings.root)
    yield _clock(settings.root)
    if settings.model is not None:
        yield _model(settings.model)
    yield _shell()


def _client() -> Finding:
    ours = own_versions()
    detail = f"nightbatch {ours['nightbatch']}, Ray {ours['ray']}, Python {ours['python']}"
    if ours["ray"] == "none":
        fix = "Install the package again: pip install nightbatch"
        return Finding(check="client", level="fail", detail=detail, fix=fix)
    return Finding(check="client", level="ok", detail=detail)


def _packages(settings: Settings) -> Finding:
    """Check that this Python can run jobs, as the embedded cluster asks of it, and name the extras that it has."""
    try:
        # With a cluster elsewhere, this machine needs no engine.
        check_packages(settings.engine if settings.address is None else "fake")
    except MissingPackage as error:
        return Finding(check="packages", level="fail", detail=error.message, fix=error.hint)
    extras = ", ".join(f"{name} {'is' if find_spec(module) else 'not'} installed" for name, module in _OPTIONAL.items())
    return Finding(check="packages", level="ok", detail=f"complete; {extras}")


def _packages_of_nodes(report: ClusterReport, engine: str) -> Iterator[Finding]:
    """Check that every node can run jobs, and that those which would host replicas have the engine."""
    check = "packages on the nodes"
    faults = [
        (f"{name} cannot run our code: {fault}", "Install this version of nightbatch in the image of the node.")
        for name, fault in sorted(report.faults.items())
    ]
    faults += [
        (f"{node.node} lacks {', '.join(node.lacks)}", install_hint(node.lacks[0]))
        for node in report.nodes
        if node.lacks
    ]
    # Replicas run on GPUs where the cluster has any.
    hosts = [node for node in report.nodes if node.gpus] or list(report.nodes)
    without = [node.node for node in hosts if node.has_vllm is False]
    if engine == "vllm" and without:
        faults.append((f"vLLM is missing on {', '.join(without)}", install_hint("vllm")))
    for detail, fix in faults:
        yield Finding(check=check, level="fail", detail=detail, fix=fix)
    if not faults:
        yield Finding(check=check, level="ok", detail=f"complete on {_nodes(len(report.nodes))}")


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
        return None, Finding(check="cluster", level="fail", detail=error.message, fix=error.hint)
    return submitter, Finding(check="cluster", level="ok", detail=f"{address} answers and accepts us (Ray {found})")


def _inside(submitter: Submitter, settings: Settings) -> Iterator[Finding]:
    """Run the checks that only the cluster itself can answer."""
    try:
        report = ask(submitter, settings.root, settings.model)
    except JobsError as error:
        yield Finding(check="versions", level="fail", detail=error.message, fix=error.hint)
        return
    yield _versions(report)
    yield from _packages_of_nodes(report, settings.engine)
    yield _gpus({node.node: [Gpu.model_validate(gpu) for gpu in node.gpus] for node in report.nodes})
    if report.store_fault:
        fix = f"{report.store_fix} The nodes need credentials of their own: an instance role or a service account."
        yield Finding(check="store from the cluster", level="fail", detail=report.store_fault, fix=fix)
    else:
        yield Finding(check="store from the cluster", level="ok", detail=f"the cluster can use {settings.root}")
    if without := [node.node for node in report.nodes if node.has_model is False]:
        fix = "Put the snapshot on a disk that every node has at this path: `jobs model prepare`."
        detail = f"{settings.model} is missing on {', '.join(without)}"
        yield Finding(check="model on the nodes", level="fail", detail=detail, fix=fix)


def _versions(report: ClusterReport) -> Finding:
    """Compare versions. Ray refuses nodes of another Ray or Python; another nightbatch may not know all spec fields."""
    ours, others = own_versions(), []
    for node in report.nodes:
        for name, mine in ours.items():
            theirs = node.versions.get(name, "none")
            # Only Python's patch version may differ without harm.
            if theirs.split(".")[:2] != mine.split(".")[:2] or (name != "python" and theirs != mine):
                others.append((name, theirs, node.node))
    if not others:
        return Finding(check="versions", level="ok", detail=f"the same on {_nodes(len(report.nodes))}")
    kinds = sorted({f"{name} {theirs} (here {ours[name]})" for name, theirs, _ in others})
    places = sorted({node for _, _, node in others})
    return Finding(
        check="versions",
        level="fail" if any(name == "nightbatch" for name, _, _ in others) else "warn",
        detail=f"{', '.join(places)}: {', '.join(kinds)}",
        fix="Use one image for head and workers, and install its versions here: "
        f"pip install nightbatch=={others[0][1] if others[0][0] == 'nightbatch' else ours['nightbatch']}"
        + "".join(f" 'ray[default]=={theirs}'" for theirs in sorted({t for n, t, _ in others if n == "ray"})),
    )


def _gpus(machines: Mapping[str, Sequence[Gpu]]) -> Finding:
    """Check that GPUs are visible, and each is free or in use by a running cluster."""
    found = [(where, gpu) for where, each in machines.items() for gpu in each]
    if not found:
        fix = "A 20B model needs GPUs: join a cluster that has some, --address http://HOST:8265."
        where = ", ".join(machines) if len(machines) == 1 else _nodes(len(machines))
        return Finding(check="gpus", level="warn", detail=f"none on {where}; replicas would run on CPUs", fix=fix)
    strays = [(where, gpu, stray) for where, gpu in found for stray in gpu.strays]
    kinds = Counter(gpu.name for _, gpu in found)
    detail = ", ".join(f"{count} × {name}" for name, count in kinds.items())
    if strays:
        named = [
            f"{stray.name} (process {stray.pid}) holds "
            f"{'memory' if stray.used_mib is None else f'{stray.used_mib:,} MiB'} of GPU {gpu.index} on {where}"
            for where, gpu, stray in strays
        ]
        pids = sorted({(where, stray.pid) for where, _, stray in strays if stray.pid})
        fix = "They belong to no running cluster. If they are left from a dead job, end them: " + "; ".join(
            f"kill {pid} on {where}" for where, pid in pids
        )
        return Finding(check="gpus", level="fail", detail=f"{detail}; {'; '.join(named)}", fix=fix)
    busy = [gpu for _, gpu in found if not gpu.free]
    state = f"{len(found) - len(busy)} free, {len(busy)} in use by running jobs" if busy else "all free"
    if unknown := [f"GPU {gpu.index} on {where}" for where, gpu in found if not gpu.free and not gpu.held_by_ray]:
        fix = "nvidia-smi names no process: one of another container holds them. Look on the host: nvidia-smi"
        detail = f"{detail}; in use by something unseen: {', '.join(unknown)}"
        return Finding(check="gpus", level="warn", detail=detail, fix=fix)
    return Finding(check="gpus", level="ok", detail=f"{detail}, {state}")


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"


def _clock(root: str) -> Finding:
    from jobs.store import open_store
    from jobs.store.probe import clock_skew_s

    try:
        skew_s = clock_skew_s(open_store(root, patience_s=5.0))
    except JobsError as error:
        return Finding(check="clock", level="fail", detail=error.message, fix=error.hint)
    if abs(skew_s) <= MAX_SKEW_S:
        return Finding(check="clock", level="ok", detail="agrees with the store's")
    way = "ahead of" if skew_s > 0 else "behind"
    return Finding(
        check="clock",
        level="fail" if abs(skew_s) > REFUSED_SKEW_S else "warn",
        detail=f"the store's clock is {abs(skew_s):,.0f} s {way} this machine's",
        fix="Set this machine's clock by the network: timedatectl set-ntp true. S3 refuses calls at 15 minutes.",
    )


def _store(root: str) -> Finding:
    from jobs.store import open_store
    from jobs.store.probe import check_write_once

    try:
        check_write_once(open_store(root, patience_s=5.0))
    except JobsError as error:
        return Finding(check="store", level="fail", detail=error.message, fix=error.hint)
    return Finding(check="store", level="ok", detail=f"{root} is writable and creates objects only once")


def _model(model: str) -> Finding:
    """Check that a job can use the model, and report what would run: the numbers that decide its answers."""
    from jobs.models.prompt_encoder import PromptEncoder
    from jobs.models.snapshot import fingerprint

    if not Path(model).exists():
        fix = "Give --model a directory on this machine, or make sure that every node of the cluster has this one."
        return Finding(check="model", level="warn", detail=f"{model} is not on this machine", fix=fix)
    try:
        pinned, encoder = fingerprint(model), PromptEncoder.load(model)
    except JobsError as error:
        return Finding(check="model", level="fail", detail=error.message, fix=error.hint)
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
