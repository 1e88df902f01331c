"""The GPUs of one machine and the processes that hold their memory, from `nvidia-smi` and the process table."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from schemas.base import Document

RAYLET = "raylet"
"""Process that every worker of a live cluster descends from; a replica that has outlived its cluster does not."""

FREE_SHARE = 0.05
"""Share of a GPU's memory up to which it counts as free: drivers and displays take a little."""

_TIMEOUT_S = 20.0
_GPUS = "--query-gpu=index,uuid,name,memory.used,memory.total"
_PROCESSES = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"

Query = Callable[[str], str]
"""Function that runs `nvidia-smi` with one query and returns its CSV without header and units."""


class Process(NamedTuple):
    """An entry of the process table."""

    parent: int
    name: str


class Holder(Document):
    """A process that holds memory of a GPU and belongs to no running cluster.

    Attributes:
        pid: process id on its machine; 0 if `nvidia-smi` does not know it, as inside a container.
        used_mib: memory held; None if the GPU driver does not report it.
    """

    pid: int
    name: str
    used_mib: int | None


class Gpu(Document):
    """One GPU.

    Attributes:
        held_by_ray: whether a worker of a running cluster uses it.
        strays: other processes that hold its memory.
    """

    index: int
    name: str
    used_mib: int
    total_mib: int
    held_by_ray: bool
    strays: tuple[Holder, ...]

    @property
    def free(self) -> bool:
        """Whether a replica would find enough free memory."""
        return self.used_mib <= FREE_SHARE * self.total_mib


def parse(gpus: str, holders: str, processes: Mapping[int, Process]) -> list[Gpu]:
    """Combine the output of two `nvidia-smi` queries with the process table.

    Raises:
        ValueError: the text is not `nvidia-smi` output.
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
    """List the GPUs of this machine; empty if there is no `nvidia-smi` or it fails."""
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
    """Parse a number; `[N/A]`, `[Not Found]` and the like give None."""
    return int(cell) if cell.isdigit() else None
