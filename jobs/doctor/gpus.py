"""The GPUs of one machine and what holds their memory, as `nvidia-smi` and the process table tell it."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from schemas.base import Document

RAYLET = "raylet"
"""Every worker of a live cluster descends from one; a replica that has outlived its cluster does not."""

FREE_SHARE = 0.05
"""A GPU whose memory is used up to this share counts as free: drivers and displays take a little."""

_TIMEOUT_S = 20.0
_GPUS = "--query-gpu=index,uuid,name,memory.used,memory.total"
_PROCESSES = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"

Query = Callable[[str], str]
"""Runs `nvidia-smi` with one query and returns its CSV without header and units."""


class Process(NamedTuple):
    """An entry of the process table."""

    parent: int
    name: str


class Holder(Document):
    """A process that holds memory of a GPU and belongs to no running cluster.

    Attributes:
        pid: on its machine; 0 if `nvidia-smi` does not know it, as inside a container.
        used_mib: None where the driver does not tell.
    """

    pid: int
    name: str
    used_mib: int | None


class Gpu(Document):
    """One GPU.

    Attributes:
        held_by_ray: whether a worker of a running cluster uses it.
        strays: what else holds its memory.
    """

    index: int
    name: str
    used_mib: int
    total_mib: int
    held_by_ray: bool
    strays: tuple[Holder, ...]

    @property
    def free(self) -> bool:
        """Whether a replica would find its memory."""
        return self.used_mib <= FREE_SHARE * self.total_mib


def parse(gpus: str, holders: str, processes: Mapping[int, Process]) -> list[Gpu]:
    """What two queries of `nvidia-smi` and the process table come to.

    Raises:
        ValueError: that is not what `nvidia-smi` prints.
    """
    held = [(uuid, _number(pid) or 0, name, _number(used)) for uuid, pid, name, used in _rows(holders, 4)]
    found = []
    for index, uuid, name, used, total in _rows(gpus, 5):
        mine = [(pid, process, mib) for at, pid, process, mib in held if at == uuid]
        strays = [each for each in mine if not _of_a_cluster(each[0], processes)]
        found.append(
            Gpu(
                index=int(index),
                name=name,
                used_mib=_number(used) or 0,
                total_mib=_number(total) or 0,
                held_by_ray=len(strays) < len(mine),
                strays=tuple(
                    Holder(pid=pid, name=processes[pid].name if pid in processes else process, used_mib=mib)
                    for pid, process, mib in strays
                ),
            )
        )
    return found


def look(query: Query | None = None) -> list[Gpu]:
    """The GPUs of this machine; none if there is no `nvidia-smi` or it fails."""
    query = query or _nvidia_smi
    try:
        return parse(query(_GPUS), query(_PROCESSES), _process_table())
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _nvidia_smi(what: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise FileNotFoundError("nvidia-smi")
    command = [program, what, "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout


def _process_table() -> dict[int, Process]:
    import psutil

    return {
        each.pid: Process(parent=each.info["ppid"] or 0, name=each.info["name"] or "")
        for each in psutil.process_iter(["ppid", "name"])
    }


def _of_a_cluster(pid: int, processes: Mapping[int, Process]) -> bool:
    seen: set[int] = set()
    while pid in processes and pid not in seen:
        if processes[pid].name == RAYLET:
            return True
        seen.add(pid)
        pid = processes[pid].parent
    return False


def _rows(text: str, columns: int) -> Iterable[list[str]]:
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != columns:
            raise ValueError(f"nvidia-smi printed {row!r}")
        yield [cell.strip() for cell in row]


def _number(cell: str) -> int | None:
    """`[N/A]`, `[Not Found]` and their like are None."""
    return int(cell) if cell.isdigit() else None
