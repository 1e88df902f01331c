"""`python -m tests.chaos`: random faults over many short jobs, from a seed; a table of what they cost.

Every fault of `scenarios.SCENARIOS` comes once, in random order, before one comes again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.world import World, fault_free, open_world
from tests.support.invariants import Findings

HEADINGS = ("fault", "runs", "rows lost", "rows doubled", "invariant violations")


@dataclass
class Tally:
    """The findings of all runs, by fault."""

    runs: dict[str, list[Findings]] = field(default_factory=dict)

    def add(self, name: str, findings: Findings) -> None:
        """Count one run."""
        self.runs.setdefault(name, []).append(findings)

    def rows(self) -> list[tuple[str, int, int, int, int]]:
        """Return one row per fault, and the sum."""
        rows = [(name, *_sums(found)) for name, found in sorted(self.runs.items())]
        return [*rows, ("all", *_sums([each for found in self.runs.values() for each in found]))]

    @property
    def clean(self) -> bool:
        """Return whether no run had anything wrong."""
        return all(each.clean for found in self.runs.values() for each in found)


def main(arguments: list[str]) -> int:
    """Run chaos and print the table; return 1 if any invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="repeats the order and the choices of an earlier run")
    parser.add_argument("--minutes", type=float, default=10.0, help="no run starts later than this (10)")
    parser.add_argument("--out", type=Path, default=Path(".chaos.json"), help="the table as JSON (.chaos.json)")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(2**32)
    print(f"seed {seed}", flush=True)
    # Byte code of Ray and its like is written once and read by all processes of all runs.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    tally, chance, deadline = Tally(), random.Random(seed), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, open_world(Path(folder)) as world:
        _report(tally, "none", fault_free(world), 0.0)
        deck: list[Scenario] = []
        while time.monotonic() < deadline:
            deck = deck or chance.sample(SCENARIOS, len(SCENARIOS))
            scenario = deck.pop()
            began = time.monotonic()
            _report(
                tally, scenario.name, _play(world, scenario, random.Random(chance.random())), time.monotonic() - began
            )
    _print_table(tally)
    table = [dict(zip(HEADINGS, row, strict=True)) for row in tally.rows()]
    wrong = [violation for found in tally.runs.values() for each in found for violation in each.violations]
    options.out.write_text(json.dumps({"seed": seed, "table": table, "violations": wrong}, indent=1) + "\n")
    return 0 if tally.clean else 1


def _play(world: World, scenario: Scenario, chance: random.Random) -> Findings:
    world.disarm()
    try:
        run = scenario.play(world, chance)
        world.disarm()
        return run.check()
    except Exception as error:
        # The run may have left the cluster in any state: the next run must not suffer for it.
        world.nodes.__exit__()
        world.start_cluster(3)
        return Findings(violations=(f"the run itself failed: {type(error).__name__}: {error}",))


def _report(tally: Tally, name: str, findings: Findings, took_s: float) -> None:
    tally.add(name, findings)
    print(
        f"{'ok ' if findings.clean else 'BAD'} {took_s:5.1f} s  {name}", *findings.violations, sep="\n    ", flush=True
    )


def _print_table(tally: Tally) -> None:
    rows = [HEADINGS, *(tuple(map(str, row)) for row in tally.rows())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    print()
    for row in rows:
        print(
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            sep="  ",
        )


def _sums(found: list[Findings]) -> tuple[int, int, int, int]:
    return (
        len(found),
        sum(each.rows_lost for each in found),
        sum(each.rows_doubled for each in found),
        sum(len(each.violations) for each in found),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
