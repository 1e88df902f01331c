"""Faults of a job, each as a function that causes the fault and brings the job to its end all the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psutil

from jobs.failpoints import FAILPOINTS
from jobs.pools.book import PoolBook
from schemas import keys
from schemas.records import Cancelled
from tests.chaos import damage
from tests.chaos.s3_proxy import ALL_FAULTS, SLOW_DOWN, always, no_faults, seeded, throttled
from tests.chaos.world import Run, World, kill, pick
from tests.support.harness import COMMAND
from tests.support.stored import Stored, read_rows

SLOW_TOKEN_S = 0.1
"""About two seconds per row: long enough to be hit in the middle."""

NUM_SUBMITS = 16

ELSEWHERE = ("schedule.", "pause.", "limit.", "delete.", "export.", "replica.before_salvage", "replica.after_salvage")
"""Failpoints of schedulers, and of jobs that are paused, limited, deleted, exported or told to stop; they have tests of
their own."""

JOB_FAILPOINTS = tuple(name for name in FAILPOINTS if not name.startswith(ELSEWHERE))
"""Failpoints that every job passes."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of fault. `play` returns the job that went through it, ended."""

    name: str
    play: Callable[[World, random.Random], Run]


def at_failpoints(world: World, *names: str, faults_seed: int | None = None) -> Run:
    """Run one job whose processes die at each of these failpoints.

    Raises:
        AssertionError: a failpoint was never passed, or a process that passed it still lives.
    """
    phases = {name.partition(".")[0] for name in names}
    run = world.run(
        "-".join(sorted(phases)), token_s=SLOW_TOKEN_S if "cancel" in phases else 0.0, local="store" in phases
    )
    for name in names:
        world.arm(name)
    if faults_seed is not None:
        world.proxy.faults = seeded(faults_seed, 0.03, ALL_FAULTS)
    submitter_dies = phases & {"submit", "store"}
    run.submit(code=-signal.SIGKILL if submitter_dies else 0)
    if "cancel" in phases:
        run.at_work()
        for name in names:
            if name.startswith("cancel."):
                run.user.run("cancel", run.job_id, code=-signal.SIGKILL)
        run.user.run("cancel", run.job_id)
    else:
        run.finish()
    world.proxy.faults = no_faults
    for name in names:
        # Failpoints after the terminal record are passed when the job counts as ended already.
        run.wait(lambda name=name: world.hits(name), f"process at {name}", 30)  # type: ignore[misc]
        for hit in world.hits(name):
            pid = int(hit.name.rpartition("-")[2])
            run.wait(lambda pid=pid: not _lives(pid), f"death at {name}", 20)  # type: ignore[misc]
    if not isinstance(run.ledger.terminal(), Cancelled):
        run.finish()
    return run


def kill_replica(world: World, chance: random.Random) -> Run:
    """A replica is killed while it works."""
    run = world.run("replica", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    time.sleep(chance.uniform(0, 2))
    if (pid := pick(chance, run.replica_pids())) is not None:
        kill(pid)
    run.finish()
    return run


def kill_driver(world: World, chance: random.Random) -> Run:
    """The driver is killed at some moment."""
    run = world.run("driver", token_s=SLOW_TOKEN_S / 2)
    run.submit()
    run.wait(lambda: run.driver() or run.ended, "driver")
    time.sleep(chance.uniform(0, 15))
    if (driver := run.driver()) is not None:
        kill(driver.pid)
    run.finish()
    return run


def lose_raylet(world: World, chance: random.Random) -> Run:
    """A node is lost while replicas work, and another one joins."""
    run = world.run("raylet", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    workers = world.nodes.raylets[1:]
    busy = [raylet for raylet in workers if any(psutil.Process(pid).ppid() == raylet for pid in run.replica_pids())]
    world.nodes.lose(chance.choice(busy or workers))
    world.nodes.add()
    run.finish()
    return run


def drain_node(world: World, _: random.Random) -> Run:
    """A node on which a replica works is drained, as before a preemption, and then lost; another one joins."""
    run = world.run("drain", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    raylet = next(each for each in world.nodes.raylets[1:] if _replicas_on(run, each))
    world.nodes.drain(raylet, notice_s=30)
    run.wait(lambda: run.ended or not _replicas_on(run, raylet), "departure of the replicas", 30)
    assert any(run.ledger.store.list(run.ledger.key(keys.SALVAGE))) or run.ledger.committed(), "finished rows are kept"
    world.nodes.lose(raylet)
    world.nodes.add()
    run.finish()
    said = run.user.logs(run.job_id)
    assert "its node" in said, said
    assert "ActorDiedError" not in said, said
    return run


@contextmanager
def _pool(world: World, name: str) -> Iterator[Run]:
    """A job that is at work in a pool of two replicas; the pool goes down afterwards."""
    run = world.run(name, token_s=3 * SLOW_TOKEN_S)
    pool = f"of-{run.job_id}"
    run.options = ("--pool", pool)
    _pool_up(run)
    try:
        run.submit()
        run.at_work()
        yield run
        run.finish()
    finally:
        run.user.run("pool", "down", pool, timeout_s=120, code=None)


def _pool_up(run: Run) -> None:
    run.user.run("pool", "up", run.options[1], *run.engine, "--replicas", "2", "--wait", timeout_s=180)


def drain_pool_node(world: World, _: random.Random) -> Run:
    """A node on which a pool's replica works is drained, as before a preemption, and then lost."""
    with _pool(world, "drainpool") as run:
        run.wait(lambda: any(_replicas_on(run, each) for each in world.nodes.raylets[1:]), "replica off the head")
        raylet = next(each for each in world.nodes.raylets[1:] if _replicas_on(run, each))
        elsewhere = [pid for each in world.nodes.raylets if each != raylet for pid in _replicas_on(run, each)]
        world.nodes.drain(raylet, notice_s=60)
        run.wait(lambda: not _replicas_on(run, raylet), "departure of the pool's replica", 60)
        assert all(map(psutil.pid_exists, elsewhere)), "replicas elsewhere go on"
        world.nodes.lose(raylet)
        world.nodes.add()
    return run


def kill_pool_replica(world: World, chance: random.Random) -> Run:
    """A pool's replica is killed while a job works in it."""
    with _pool(world, "poolreplica") as run:
        kill(chance.choice(run.replica_pids()))
    return run


def terminate_pool_replica(world: World, _: random.Random) -> Run:
    """A pool's replica at work gets SIGTERM: rows inside end, and nobody has a strike."""
    with _pool(world, "poolsigterm") as run:
        told = run.replica_pids()[0]
        os.kill(told, signal.SIGTERM)
        run.wait(lambda: not _lives(told), "end of the pool's replica", 60)
    said = run.user.logs(run.job_id)
    assert "takes no further rows" in said, said
    assert "ActorDiedError" not in said, said
    return run


def kill_pool(world: World, _: random.Random) -> Run:
    """A pool is killed while a job works in it, and its replicas die with it; it is started again."""
    with _pool(world, "poolgone") as run:
        state = PoolBook(run.ledger.store).state(run.options[1])
        assert state is not None
        assert state.process is not None
        kill(state.process.pid)
        run.wait(lambda: not run.replica_pids(), "end of the pool's replicas", 60)
        _pool_up(run)
    return run


def prune_at_work(world: World, _: random.Random) -> Run:
    """Somebody deletes all jobs that may be deleted; the one that works is none of them."""
    run = world.run("prune", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    run.user.run("delete", run.job_id, "--yes", code=2)
    run.user.run("prune", "--keep-newest", "0", "--yes")
    run.finish()
    return run


def terminate_replica(world: World, _: random.Random) -> Run:
    """A replica at work gets SIGTERM: finished rows are kept, and nobody has a strike."""
    run = world.run("sigterm", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    os.kill(run.replica_pids()[0], signal.SIGTERM)
    run.finish()
    said = run.user.logs(run.job_id)
    assert "takes no further rows" in said, said
    assert "ActorDiedError" not in said, said
    return run


def terminate_driver(world: World, chance: random.Random) -> Run:
    """The driver at work gets SIGTERM."""
    run = world.run("told", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    time.sleep(chance.uniform(0, 2))
    if (driver := run.driver()) is not None:
        driver.terminate()
    run.finish()
    return run


def pause_and_resume(world: World, chance: random.Random) -> Run:
    """A job is paused while it works; another submission leaves it alone; a person resumes it."""
    run = world.run("pause", token_s=3 * SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    time.sleep(chance.uniform(0, 2))
    run.user.run("pause", run.job_id)
    assert run.user.run("status", run.job_id, "-q").stdout.strip() == "PAUSED"
    run.submit()
    assert run.driver() is None, "submitting again resumes no paused job"
    run.user.run("resume", run.job_id)
    run.finish()
    return run


def reach_time_limit(world: World, _: random.Random) -> Run:
    """A job stops at its time limit; another submission leaves it alone; a person raises the limit."""
    run = world.run("limit", token_s=SLOW_TOKEN_S)
    run.options = ("--finish-within", "20s")
    run.submit()
    run.wait(lambda: run.user.run("status", run.job_id, "-q").stdout.strip() == "INTERRUPTED", "stop at the limit")
    run.submit()
    assert run.driver() is None, "submitting again resumes no job that a limit has stopped"
    run.user.run("resume", run.job_id, code=2)
    run.user.run("resume", run.job_id, "--finish-within", "2h")
    run.finish()
    return run


def finish_at_time_limit(world: World, _: random.Random) -> Run:
    """A job reaches its time limit while it works, and its missing rows become error rows."""
    run = world.run("closed", token_s=3 * SLOW_TOKEN_S)
    run.options = ("--finish-within", "20s", "--at-limit", "finish")
    run.submit()
    run.wait(lambda: run.ended, "end at the limit")
    codes = Counter(code for key in Stored.of(run.ledger).below(keys.RESULTS) for code in _codes(run, key))
    assert codes["TIME_LIMIT"] > 0, codes
    return run


def lose_cluster(world: World, chance: random.Random) -> Run:
    """Head and all nodes are lost; clusters of 1, then 3, then 2 nodes go on, each lost in its turn."""
    run = world.run("cluster", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    for num_nodes in (1, 3):
        time.sleep(chance.uniform(0, 2))
        _move(world, run, num_nodes)
        run.submit()
        attempts = sum(1 for _ in run.ledger.attempts())
        run.wait(lambda n=attempts: run.ended or sum(1 for _ in run.ledger.attempts()) > n, "attempt")  # type: ignore[misc]
    _move(world, run, 2)
    run.finish()
    world.nodes.add()
    return run


def two_drivers(world: World, _: random.Random) -> Run:
    """Two drivers run the job at the same time."""
    run = world.run("two", token_s=SLOW_TOKEN_S)
    run.submit()
    run.start_second_driver()
    run.finish()
    run.wait(lambda: not any(each.active for each in run.submissions()), "end of both drivers", 60)
    return run


def frozen_driver(world: World, _: random.Random) -> Run:
    """The driver is stopped until another one has finished the job, and then goes on."""
    run = world.run("frozen", token_s=SLOW_TOKEN_S)
    run.submit()
    run.at_work()
    first = run.driver()
    assert first is not None
    first.suspend()
    try:
        run.start_second_driver()
        run.wait(lambda: run.ended, "end by the second driver")
    finally:
        first.resume()
    run.wait(lambda: not any(each.active for each in run.submissions()), "end of the driver that was frozen", 60)
    run.finish()
    return run


def sixteen_submits(world: World, _: random.Random) -> Run:
    """Sixteen `jobs submit` of one id at the same time: one job, one driver, and fifteen commands that attach to it."""
    run = world.run("sixteen")
    commands = [
        subprocess.Popen(
            [COMMAND, *run.arguments],
            env=run.user.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(NUM_SUBMITS)
    ]
    for command in commands:
        out, err = command.communicate(timeout=240)
        run.user.said += [out, err]
        assert command.returncode == 0, err
    assert sum("attached to it" in text for text in run.user.said) == NUM_SUBMITS - 1
    assert [each.submission_id for each in run.submissions()] == [run.job_id]
    run.finish()
    assert {attempt.driver for attempt in run.ledger.attempts()} == {run.job_id}
    return run


def cancel_races_finish(world: World, chance: random.Random) -> Run:
    """A short job is cancelled at some moment."""
    run = world.run("race")
    run.submit()
    time.sleep(chance.uniform(2, 15))
    run.user.run("cancel", run.job_id)
    return run


def bad_store(world: World, chance: random.Random) -> Run:
    """The store loses, refuses, cuts, corrupts and delays one request in twelve."""
    run = world.run("store")
    world.proxy.faults = seeded(chance.randrange(2**32), 0.08, ALL_FAULTS)
    run.submit()
    run.finish()
    world.proxy.faults = no_faults
    return run


def throttling_store(world: World, _: random.Random) -> Run:
    """The store takes eight requests a second and no more."""
    run = world.run("throttled")
    world.proxy.faults = throttled(8)
    run.submit()
    run.finish()
    world.proxy.faults = no_faults
    return run


def store_outage(world: World, chance: random.Random) -> Run:
    """The store refuses everything for some seconds."""
    run = world.run("outage", token_s=SLOW_TOKEN_S)
    run.submit()
    run.wait(lambda: run.driver() or run.ended, "driver")
    time.sleep(chance.uniform(0, 8))
    world.proxy.faults = always(SLOW_DOWN)
    time.sleep(chance.uniform(3, 8))
    world.proxy.faults = no_faults
    run.finish()
    return run


def killed_over_a_bad_store(world: World, chance: random.Random) -> Run:
    """Processes die at two failpoints while the store misbehaves."""
    names = [name for name in FAILPOINTS if name.startswith(("driver.", "staging.", "replica.", "ledger."))]
    return at_failpoints(world, *chance.sample(names, 2), faults_seed=chance.randrange(2**32))


def _at(name: str) -> Scenario:
    return Scenario(name=name, play=lambda world, _: at_failpoints(world, name))


FAULTS = tuple(
    Scenario(name=play.__name__.replace("_", " "), play=play)
    for play in (
        *(
            drain_node,
            drain_pool_node,
            kill_pool_replica,
            terminate_pool_replica,
            kill_pool,
            prune_at_work,
            terminate_replica,
            terminate_driver,
            pause_and_resume,
            reach_time_limit,
            finish_at_time_limit,
        ),
        *(kill_replica, kill_driver, lose_raylet, lose_cluster, two_drivers, frozen_driver, sixteen_submits),
        *(cancel_races_finish, bad_store, throttling_store, store_outage, killed_over_a_bad_store),
    )
)
DAMAGE = tuple(Scenario(name=f"damage: {cell}", play=partial(damage.play, cell)) for cell in damage.CELLS) + tuple(
    Scenario(name=f"input gone when {stage}", play=partial(damage.lost_input, stage)) for stage in damage.STAGES
)
SCENARIOS = (*FAULTS, *map(_at, JOB_FAILPOINTS), *DAMAGE)


def _move(world: World, run: Run, num_nodes: int) -> None:
    """Lose the cluster with everything on it, and start another one."""
    world.nodes.__exit__()
    world.start_cluster(num_nodes)
    run.user.env.update(world.nodes.environment())


def _replicas_on(run: Run, raylet: int) -> list[int]:
    """Return the job's replicas on the node of a raylet."""
    return [pid for pid in run.replica_pids() if psutil.pid_exists(pid) and psutil.Process(pid).ppid() == raylet]


def _codes(run: Run, key: str) -> list[str | None]:
    """Return the error codes of a result's rows."""
    return list(read_rows(Stored.of(run.ledger).objects[key])["error_code"].to_pylist())


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
