"""Whatever dies, whoever runs it twice: every row once, and nothing that is committed changes.

Jobs of the `fake` engine on the session's cluster; where the moment matters, a proxy before the S3 server
holds a request until the driver is dead.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from jobs.client import BatchClient
from jobs.cluster import embedded as cluster
from jobs.ledger import Ledger
from jobs.settings import Settings
from schemas import keys
from tests.chaos.s3_proxy import RESET, SLOW_DOWN, Fault, Proxy, Request, always, no_faults, seeded
from tests.support.harness import User, check_invariants, driver_pid, embedded_cluster, kill, new_id, write_prompts
from tests.support.s3 import S3Server

FAKE = ("--engine", "fake", "--replicas", "2", "--keep-staged")
SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=12")
SLOW = ("--set", "engine.fake.token_s=0.05", "--max-num-seqs", "4")
"""About a second per row, four rows at once."""

RAY_DATA = ("ray::_StatsActor", "ray::_AutoscalingCoordinatorActor")
"""Ray Data's own actors, one of each per cluster: the first job's driver starts them and they stay."""

ADVISORY = (keys.PROGRESS, keys.HISTORY, keys.STARTS, keys.ATTEMPTS)
"""Written by every driver, whatever the job has come to; nothing rests on them."""


@dataclass
class Gate:
    """Faults of a proxy: holds the n-th PUT of a key until it is opened, which then meets a fault."""

    key: str
    then: Fault
    number: int = 1
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request) -> Fault | None:
        if request.method != "PUT" or self.key not in request.path:
            return None
        self.number -= 1
        if self.number != 0:
            return None
        self.reached.set()
        self.opened.wait(120)
        return self.then


@dataclass
class AwayAfter:
    """Faults of a proxy: lets so many results through, then the store is away."""

    results: int
    away: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Fault | None:
        with self.lock:
            if request.method == "PUT" and f"/{keys.RESULTS}" in request.path:
                self.results -= 1
                if self.results < 0:
                    self.away.set()
        return SLOW_DOWN if self.away.is_set() else None


@dataclass
class Proxied:
    """A user whose commands, drivers and replicas reach the store through a proxy; this process reads past it."""

    user: User
    proxy: Proxy

    def assert_nothing_left(self, ledger: Ledger) -> None:
        """I5: no replica that ever worked, and no process that looks at this proxy, is there."""
        left = wait_until_empty(lambda: [*replicas(ledger), *self.processes()], 20)
        assert not left, f"left over: {left}"

    def processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline()).strip()
                sees_proxy = process.environ().get("AWS_ENDPOINT_URL") == self.proxy.endpoint
                if sees_proxy and process.pid != os.getpid() and command not in RAY_DATA:
                    found.append(f"{process.pid} {process.status()} {command}")
            except psutil.Error:
                continue
        return found


@pytest.fixture
def proxied(cluster_env: dict[str, str], s3_server: S3Server, s3_bucket: str) -> Iterator[Proxied]:
    with Proxy(s3_server.endpoint) as proxy:
        env = {**cluster_env, "AWS_ENDPOINT_URL": proxy.endpoint}
        yield Proxied(User(root=f"s3://{s3_bucket}/jobs-{uuid4().hex[:6]}", env=env), proxy)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "rows.parquet", [f"prompt {n}" for n in range(60)])


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {timeout_s} s"
        time.sleep(0.2)


def wait_until_empty(look: Callable[[], list[str]], timeout_s: float) -> list[str]:
    """What is still seen after at most that long."""
    deadline = time.monotonic() + timeout_s
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def replicas(ledger: Ledger) -> list[str]:
    """Live processes of replicas that the job's records name."""
    progress = ledger.progress()
    pids = {attempt.pid for attempt in ledger.attempts()} | {r.pid for r in (progress.replicas if progress else ())}
    found = []
    for pid in pids - {0}:
        try:
            process = psutil.Process(pid)
            if "Replica" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{pid} {' '.join(process.cmdline())}")
        except psutil.NoSuchProcess:
            continue
    return found


def standing(ledger: Ledger) -> dict[str, tuple[object, bytes | None]]:
    """Every object that must never change once it is there, with its bytes and the store's time of its writing."""
    return {
        info.key: (info.modified_at, ledger.store.get(info.key))
        for info in ledger.objects()
        if not any(name in info.key for name in ADVISORY)
    }


def assert_unchanged(before: dict[str, tuple[object, bytes | None]], ledger: Ledger) -> None:
    after = standing(ledger)
    assert {key: after.get(key) for key in before} == before


def assert_results_are_write_once(proxy: Proxy) -> None:
    written = [request for request in proxy.requests if request.method == "PUT" and f"/{keys.RESULTS}" in request.path]
    assert written
    assert all(request.conditional for request in written)


def client_of(user: User, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    """The Python client in this process, with the user's cluster."""
    monkeypatch.setenv("JOBS_STATE_DIR", user.env["JOBS_STATE_DIR"])
    return BatchClient(Settings(root=user.root))


@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(Gate(keys.PLAN, RESET), id="before the plan", marks=pytest.mark.nightly),
        pytest.param(Gate(keys.STAGED, RESET, number=6), id="between staged shards"),
        pytest.param(Gate(keys.TERMINAL, RESET), id="before the end", marks=pytest.mark.nightly),
    ],
)
def test_a_driver_killed_at_any_step_is_followed_by_one_that_goes_on_there(
    proxied: Proxied, dataset: Path, gate: Gate
) -> None:
    user, proxied.proxy.faults = proxied.user, gate
    job_id = user.submit(str(dataset), "--id", new_id("step"), *FAKE, *SHARDS)
    ledger = user.ledger(job_id)
    assert gate.reached.wait(90), user.logs(job_id)
    kill(driver_pid(job_id))
    gate.opened.set()
    wait_until(lambda: user.json("status", job_id)["state"] == "INTERRUPTED", 30, "word of the driver's death")
    proxied.assert_nothing_left(ledger)
    before, attempts = standing(ledger), list(ledger.attempts())
    assert (ledger.plan() is None) == (gate.key == keys.PLAN)
    assert ledger.terminal() is None

    user.run("resume", job_id, "--wait")
    check_invariants(ledger, 60)
    assert_unchanged(before, ledger)
    assert_results_are_write_once(proxied.proxy)
    assert ledger.store.get(f"{job_id}/{keys.SUCCESS}") is not None
    if gate.key == keys.TERMINAL:
        assert list(ledger.attempts()) == attempts, "finishing runs nothing again"
    proxied.assert_nothing_left(ledger)

    # A driver may also die between the record and what follows from it.
    ledger.store.delete(f"{job_id}/{keys.SUCCESS}")
    assert user.json("resume", job_id)["started"] is False
    assert ledger.store.get(f"{job_id}/{keys.SUCCESS}") is not None


@pytest.mark.nightly
def test_two_drivers_at_once_and_one_of_them_frozen_until_the_other_has_finished(
    proxied: Proxied, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, proxied.proxy.faults = proxied.user, seeded(7, 0.03)
    # Slow enough for the second driver to come up while the first is at work.
    slow = (*SLOW, "--set", "engine.fake.token_s=0.2")
    job_id = user.submit(str(dataset), "--id", new_id("two"), *FAKE, *SHARDS, *slow)
    ledger, first, second = user.ledger(job_id), job_id, f"{job_id}-second"
    user.progress_until(job_id, lambda p: p.shards_total is not None, what="plan")
    first_pid = driver_pid(job_id)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxied.proxy.endpoint)
    client = client_of(user, monkeypatch)
    assert client.start_driver(ledger, ledger.spec(), second)
    wait_until(
        lambda: {attempt.driver for attempt in ledger.attempts()} == {first, second}, 60, "attempts of both drivers"
    )
    os.kill(first_pid, signal.SIGSTOP)
    assert ledger.terminal() is None
    try:
        wait_until(lambda: ledger.terminal() is not None, 90, "end by the second driver")
        check_invariants(ledger, 60)
        wait_until(lambda: client.submitter().status(second) == "SUCCEEDED", 30, "end of the second driver")
        before, attempts = standing(ledger), list(ledger.attempts())
    finally:
        os.kill(first_pid, signal.SIGCONT)
    wait_until(lambda: client.submitter().status(first) == "SUCCEEDED", 60, "end of the driver that was frozen")
    assert standing(ledger) == before
    assert list(ledger.attempts()) == attempts, "what another driver has committed is not run again"
    check_invariants(ledger, 60)
    assert_results_are_write_once(proxied.proxy)
    proxied.proxy.faults = no_faults
    proxied.assert_nothing_left(ledger)


def test_the_store_may_be_away_for_a_while_and_the_job_for_longer(
    proxied: Proxied, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, job_id = proxied.user, new_id("away")
    client = client_of(user, monkeypatch)
    job = client.exact_job(job_id)
    from jobs.spec.build import build_spec

    values = {
        "engine": {"name": "fake", "max_num_seqs": 4, "fake": {"token_s": 0.15}},
        "shards": {"min_tokens": 1, "target_count": 12},
    }
    job.ledger.create(build_spec(str(dataset), {}, values), writer="test")
    driver = start_impatient_driver(job.uri, job_id, proxied.proxy.endpoint, patience_s=8)
    user.progress_until(job_id, lambda p: p.shards_committed >= 1, what="commit")
    # This driver is not in the cluster's books under the job: it is known by its progress alone.
    assert user.json("resume", job_id)["started"] is False

    proxied.proxy.faults = always(SLOW_DOWN)
    time.sleep(4)
    seen = job.ledger.committed()
    # It comes back for two more results and is away again, however late anybody looks.
    proxied.proxy.faults = again = AwayAfter(2)
    assert again.away.wait(60), "no commit after the store's absence"
    assert len(seen) < len(job.ledger.committed()) < 12

    wait_until(lambda: client.submitter().status(driver) == "FAILED", 60, "end of the driver")
    committed = standing(job.ledger)
    # The store's word for it, where the last request was one whose answer has a body.
    assert re.search(r"SlowDown|answers 503.* nothing done is lost", client.submitter().logs(driver))
    proxied.proxy.faults = no_faults
    proxied.assert_nothing_left(job.ledger)
    assert job.ledger.terminal() is None

    assert user.json("resume", job_id)["started"] is True
    user.run("wait", job_id, "--timeout", "90")
    check_invariants(job.ledger, 60)
    staged = f"{job_id}/{keys.STAGED}"
    assert_unchanged({key: value for key, value in committed.items() if not key.startswith(staged)}, job.ledger)
    proxied.assert_nothing_left(job.ledger)


def start_impatient_driver(job_uri: str, job_id: str, endpoint: str, *, patience_s: float) -> str:
    """A driver that gives the store up sooner than the night's 300 s; returns its submission id."""
    from ray.job_submission import JobSubmissionClient

    running = cluster.current()
    assert running is not None
    code = (
        "import os; from workers.driver.process import connect; from workers.driver.entry import main; "
        f"os._exit(main({job_uri!r}, connect, store_patience_s={patience_s}))"
    )
    headers = {"Authorization": f"Bearer {running.token_path.read_text()}"}
    return str(
        JobSubmissionClient(running.dashboard_url, headers=headers).submit_job(
            entrypoint=f"python -c {shlex.quote(code)}",
            submission_id=f"impatient-{job_id}",
            runtime_env={"env_vars": {"AWS_ENDPOINT_URL": endpoint}},
        )
    )


@pytest.mark.nightly
def test_another_cluster_goes_on_where_the_first_one_ended(
    cluster_env: dict[str, str], dataset: Path, tmp_path: Path
) -> None:
    job_id = new_id("moved")
    with embedded_cluster(tmp_path / "one", cluster_env) as env:
        user = User(root=str(tmp_path / "root"), env=env)
        user.submit(str(dataset), "--id", job_id, *FAKE, *SHARDS, *SLOW, "--set", "engine.fake.token_s=0.2")
        ledger = user.ledger(job_id)
        user.progress_until(job_id, lambda p: p.shards_committed >= 2, what="commits")
        temp_dir = user.json("cluster", "status")["logs"]
        user.run("cluster", "down", "--yes")
    before = standing(ledger)
    assert not replicas(ledger)
    with pytest.raises(AssertionError, match="no driver"):
        driver_pid(job_id)
    assert not Path(temp_dir).exists()
    assert ledger.terminal() is None
    assert 2 <= len(ledger.committed()) < 12

    with embedded_cluster(tmp_path / "two", cluster_env) as env:
        user = User(root=str(tmp_path / "root"), env=env)
        assert user.json("resume", job_id)["started"] is True
        user.run("wait", job_id, "--timeout", "120")
        wait_until(lambda: not replicas(ledger), 20, "end of the replicas")
    check_invariants(ledger, 60)
    assert_unchanged(before, ledger)


def test_an_idle_replica_works_on_the_last_shard_too_and_ends_it_when_the_other_dies(
    user: User, tmp_path: Path
) -> None:
    dataset = write_prompts(tmp_path / "few.parquet", ["one", "two", "three"])
    job_id = user.submit(
        *(str(dataset), "--id", new_id("idle"), "--engine", "fake", "--replicas", "2"),
        *("--set", "engine.fake.token_s=0.5", "--set", "engine.fake.start_s=4"),
    )
    progress = user.progress_until(job_id, lambda p: sum(r.shards == (0,) for r in p.replicas) == 2, what="copy")
    assert progress.shard_copies == 1
    kill(progress.replicas[0].pid)
    user.run("wait", job_id, "--timeout", "60")
    check_invariants(user.ledger(job_id), 3)
    attempts = sorted(attempt.replica for attempt in user.ledger(job_id).attempts())
    assert attempts == sorted(replica.replica for replica in progress.replicas), "nothing was begun again"


def test_a_replica_that_stands_still_holds_nobody_up(user: User, dataset: Path) -> None:
    """Its shards are given to the other one, too, long before it counts as stalled."""
    job_id = user.submit(str(dataset), "--id", new_id("still"), *FAKE, *SHARDS, *SLOW)
    progress = user.progress_until(job_id, lambda p: sum(bool(r.shards) for r in p.replicas) == 2, what="work")
    still = progress.replicas[0]
    os.kill(still.pid, signal.SIGSTOP)
    try:
        user.run("wait", job_id, "--timeout", "90")
    finally:
        with suppress(ProcessLookupError):
            os.kill(still.pid, signal.SIGCONT)
    ledger = user.ledger(job_id)
    check_invariants(ledger, 60)
    assert [loss for history in ledger.histories() for loss in history.losses] == []
    status = user.json("status", job_id)
    assert status["shard_copies"] >= 1
    assert status["tail_s"] is not None
    assert 0 < status["engine_idle_s"] < status["engine_s"]


def test_a_cluster_on_which_no_replica_fits_fails_the_job_with_the_reason(user: User, dataset: Path) -> None:
    job_id = new_id("unfit")
    user.run(
        *("submit", str(dataset), "--id", job_id, "--engine", "vllm", "--model", "builtin:bytes", "--wait"),
        *("--device", "cpu", "--tensor-parallel", "64"),
        code=1,
    )
    terminal = user.ledger(job_id).terminal()
    assert terminal is not None
    assert terminal.state == "FAILED"
    assert terminal.code == "INVALID_CLUSTER"
    assert "--tensor-parallel" in terminal.reason
