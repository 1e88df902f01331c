"""Damages an object, or removes the input, while a job runs: the damage is repaired, or reported until it is undone.

A job is brought to a stage, its driver is killed, and one object is damaged. An object that can be made again must not
keep the job from its end. Any other damage must be reported by every command that needs the object; once it is undone,
the job goes on. Either way, each row is in the results once in the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

from jobs.staged import Staged
from schemas import keys
from tests.chaos.world import BUCKET, Run, World, kill

Stage = Literal["planned", "running"]

WAYS: dict[str, Callable[[bytes], bytes]] = {
    "flip": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0x80]) + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}
"""Ways to damage the bytes of an object; `delete` removes the object instead."""

OBJECTS = ("spec", "plan", "progress", "staged", "attempt", "result", "metadata")
STAGES: dict[Stage, tuple[str, ...]] = {"planned": ("spec", "plan", "progress", "staged"), "running": OBJECTS}
FRIGHTENING = ("Traceback", "fault of the program", "Exception ignored", "Upgrade nightbatch")
SLOW_TOKEN_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the matrix of stage, kind of object and way of damage.

    Attributes:
        mended: the job ends well by itself; otherwise the damage is reported until it is undone.
    """

    stage: Stage
    kind: str
    way: str

    @property
    def mended(self) -> bool:
        """Return whether the job repairs the damage: it makes staged, advisory and missing objects again."""
        return self.kind in ("staged", "progress", "attempt") or self.way == "delete"

    def __str__(self) -> str:
        return f"{self.kind} {self.way} when {self.stage}"


CELLS = [
    Cell(stage=stage, kind=kind, way=way)
    for stage, kinds in STAGES.items()
    for kind, way in product(kinds, (*WAYS, "delete"))
    if not (kind == "metadata" and way != "empty")  # An object of S3 has no metadata apart from it.
]


def play(cell: Cell, world: World, _: random.Random) -> Run:
    """Damage the object, check what commands say, and bring the job to its end all the same.

    Raises:
        AssertionError: the damage is neither repaired nor reported, or a message frightens.
    """
    run = world.run(f"damage-{cell.kind}", token_s=SLOW_TOKEN_S)
    run.submit()
    _stop_at(run, cell.stage)
    undo = _damage(world, run, cell)
    report = str(world.folder / f"{run.job_id}.html")
    said = [run.user.run(*command, code=None) for command in (("status", run.job_id), ("report", run.job_id, report))]
    if not cell.mended:
        if cell.kind in ("result", "metadata"):
            # The job itself never reads a result's bytes; a command that needs them reports the damage.
            said.append(run.user.run("results", run.job_id, "-", "--verify", code=None))
        else:
            said.append(run.user.run(*run.arguments, "--wait", "--timeout", "60", code=None))
        last = said[-1]
        assert last.returncode not in (0, 3), f"{cell}: nothing is said of the damage: {last.stdout}{last.stderr}"
        assert len(last.stderr.strip().splitlines()) >= 2, f"{cell}: no reason and next step: {last.stderr}"
        undo()
    for each in said:
        found = [word for word in FRIGHTENING if word in each.stderr + each.stdout]
        assert not found, f"{cell}: {found} in {each.stderr}"
    run.finish()
    return run


def lost_input(stage: Stage, world: World, _: random.Random) -> Run:
    """The dataset is missing, as with a mount that is not there yet; its absence never ends the job."""
    run = world.run("input", token_s=SLOW_TOKEN_S)
    run.submit()
    _stop_at(run, stage)
    away = world.dataset.with_suffix(".away")
    world.dataset.rename(away)
    try:
        done = run.user.run("resume", run.job_id, "--wait", code=None, timeout_s=180)
        assert not any(word in done.stderr for word in FRIGHTENING), done.stderr
    finally:
        away.rename(world.folder / "rows.parquet")
    run.finish()
    return run


def _stop_at(run: Run, stage: Stage) -> None:
    """Kill the driver as soon as the job has reached the stage."""
    ready = run.ledger.plan if stage == "planned" else run.ledger.committed
    run.wait(lambda: run.ended or ready(), f"job that is {stage}")
    driver = run.driver()
    assert driver is not None
    assert not run.ended
    kill(driver.pid)
    run.wait(lambda: run.user.json("status", run.job_id)["state"] == "INTERRUPTED", "interruption", 60)


def _damage(world: World, run: Run, cell: Cell) -> Callable[[], Any]:
    """Damage the object, past the proxy and the program; return a function that undoes it."""
    client, damaged = world.server.client(), _key(run, cell.kind)
    key = f"jobs/{run.job_id}/{damaged}"
    if cell.kind == "attempt":
        run.damaged.add(damaged)  # Nothing depends on it, so nobody mends it.
    found = client.get_object(Bucket=BUCKET, Key=key)
    data, metadata = found["Body"].read(), found["Metadata"]
    if cell.way == "delete":
        client.delete_object(Bucket=BUCKET, Key=key)
    elif cell.kind == "metadata":
        client.put_object(Bucket=BUCKET, Key=key, Body=data)
    else:
        client.put_object(Bucket=BUCKET, Key=key, Body=WAYS[cell.way](data), Metadata=metadata)
    return partial(client.put_object, Bucket=BUCKET, Key=key, Body=data, Metadata=metadata)


def _key(run: Run, kind: str) -> str:
    """Return the key of an object that exists; of a staged one, its shard is still to be computed."""
    open_shards = sorted(Staged(run.ledger).shards() - run.ledger.committed())
    if kind == "staged":
        return keys.staged(open_shards[-1])
    if kind == "attempt":
        attempt = next(iter(run.ledger.attempts()))
        return keys.attempt(attempt.shard, attempt.attempt_id)
    if kind in ("result", "metadata"):
        return keys.result(min(run.ledger.committed()))
    return {"spec": keys.SPEC, "plan": keys.PLAN, "progress": keys.PROGRESS}[kind]
