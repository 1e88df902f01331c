"""The way of a job from its submission to the first row, from the traces of its processes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.starts import Phase, Start

APPROXIMATE = "The processes ran on several machines, so when each began is approximate; how long each took is exact."
_ORDER = ("command", "driver", "replica")


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """The start of one process, on the axis of the whole.

    Attributes:
        begin_s: seconds from the beginning of the first process.
    """

    name: str
    begin_s: float
    phases: tuple[Phase, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What is known of the way to the first row.

    Attributes:
        to_first_row_s: seconds from the command's beginning to the first row; None while a part is missing.
        approximate: whether the processes ran on machines with clocks of their own. Durations are exact either way.
    """

    processes: tuple[Process, ...]
    to_first_row_s: float | None
    approximate: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form. Keys are stable."""
        return {
            "to_first_row_s": None if self.to_first_row_s is None else round(self.to_first_row_s, 3),
            "approximate": self.approximate,
            "processes": [
                {
                    "process": process.name,
                    "begin_s": round(process.begin_s, 3),
                    "phases": [
                        {"phase": each.name, "begin_s": round(each.begin_s, 3), "took_s": round(each.took_s, 3)}
                        for each in process.phases
                    ],
                }
                for process in self.processes
            ],
        }


def beginning_of(starts: Sequence[Start]) -> Beginning | None:
    """Put the processes of one driver on one axis: the command, the driver, and the replica with the first row.

    Returns:
        None if nothing is known.
    """
    replicas = [start for start in starts if start.process == "replica" and start.first_row_s is not None]
    first = min(replicas, key=_first_row_at, default=None)
    shown = [start for start in starts if start.process != "replica"]
    shown += [first] if first is not None else []
    if not shown:
        return None
    origin = min(start.began_at for start in shown)
    machines = {start.machine for start in shown}
    complete = first is not None and {start.process for start in shown} == set(_ORDER)
    return Beginning(
        processes=tuple(
            Process(name=start.name or start.process, begin_s=start.began_at - origin, phases=start.phases)
            for start in sorted(shown, key=lambda start: _ORDER.index(start.process))
        ),
        to_first_row_s=_first_row_at(first) - origin if first is not None and complete else None,
        approximate=len(machines) > 1 or "" in machines,
    )


def _first_row_at(start: Start) -> float:
    return start.began_at + (start.first_row_s or 0.0)
