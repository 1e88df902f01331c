"""The world of chaos runs: a cluster of raylets, an S3 server behind a proxy, a dataset, one job after the other."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobs.client import BatchClient
from jobs.cluster.submission import Submission, Submitter
from jobs.settings import Settings
from schemas import keys
from tests.chaos.cluster import RayNodes
from tests.chaos.s3_proxy import Proxy, no_faults
from tests.support import s3
from tests.support.harness import User, is_driver, new_id, write_prompts
from tests.support.invariants import Findings, examine, examine_traffic, examine_words, snapshot
from tests.support.stored import Stored, is_as_undisturbed

NUM_ROWS = 24
CANARY = "kiwi-quartz-umbra"
"""Part of every prompt; must appear in no log."""

END_S = 500.0
"""Longest wait for a job that takes seconds, on a machine that is busy with something else."""

RAYS_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_StatsActor", "ray::_Autoscaling")
"""Processes that stay between jobs: Ray's, and one of each actor of Ray Data."""

BUCKET = "chaos"


@dataclass
class World:
    """One cluster and one store, shared by many runs.

    Attributes:
        nodes: the cluster; a run that loses it replaces it here.
        reference: result objects of a fault-free run, by key.
    """

    server: s3.S3Server
    proxy: Proxy
    folder: Path
    reference: dict[str, bytes] = field(default_factory=dict)
    nodes: RayNodes = field(init=False)

    @property
    def env(self) -> dict[str, str]:
        """Environment of the cluster's processes."""
        return {**s3.environment(self.proxy.endpoint), "JOBS_FAILPOINT_DIR": str(self.folder / "failpoints")}

    @property
    def dataset(self) -> Path:
        """Prompts with the canary in them, and a few rows that become error rows."""
        path = self.folder / "rows.parquet"
        if not path.exists():
            prompts = [f"{CANARY} number {n}" for n in range(NUM_ROWS)]
            prompts[3], prompts[11], prompts[17] = "", f"{CANARY} FAIL", f"{CANARY} " + "long " * 500
            write_prompts(path, prompts)
        return path

    def run(self, name: str, *, token_s: float = 0.0, local: bool = False) -> Run:
        """Prepare a job without submitting it.

        Args:
            token_s: time per token; a row takes about 20 times as long, and 4 rows of a replica run at once.
            local: keep the job in a local directory rather than the bucket.
        """
        root = str(self.folder / "local") if local else f"s3://{BUCKET}/jobs"
        user = User(root=root, env={**self.env, **self.nodes.environment(), "XDG_CONFIG_HOME": str(self.folder)})
        return Run(self, user, new_id(name.replace(":", "-")), token_s)

    def arm(self, failpoint: str) -> Path:
        """Arm a failpoint: the next process that passes it dies."""
        armed = self.folder / "failpoints" / failpoint
        armed.touch()
        return armed

    def hits(self, failpoint: str) -> list[Path]:
        """Return one file per process that died at a failpoint."""
        return sorted((self.folder / "failpoints").glob(f"{failpoint}.hit-*"))

    def disarm(self) -> None:
        """Disarm all failpoints and faults."""
        self.proxy.faults = no_faults
        for path in (self.folder / "failpoints").iterdir():
            path.unlink()

    def start_cluster(self, num_nodes: int) -> None:
        """Start a new cluster; the previous one must be gone."""
        self.nodes = RayNodes(self.env, num_nodes).__enter__()


@dataclass
class Run:
    """One job, from its submission to the check of everything that must hold of it.

    Attributes:
        damaged: keys below the job directory of objects that were damaged and need not be mended.
        options: further options of `submit`.
    """

    world: World
    user: User
    job_id: str
    token_s: float
    damaged: set[str] = field(default_factory=set)
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.ledger = self.user.ledger(self.job_id)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of `submit`: the same each time, so that submitting again attaches and resumes."""
        return (
            *("submit", str(self.world.dataset), "--id", self.job_id, *self.engine, "--replicas", "2"),
            *("--set", "shards.min_tokens=1", "--set", "shards.target_count=3", "--max-error-rate", "1"),
            *self.options,
        )

    @property
    def engine(self) -> tuple[str, ...]:
        """Options of the engine."""
        return (
            *("--engine", "fake", "--max-num-seqs", "4", "--max-model-len", "400"),
            *("--set", "engine.fake.fail_marker=FAIL", "--set", f"engine.fake.token_s={self.token_s}"),
        )

    def submit(self, *, code: int | None = 0) -> None:
        """Submit and return at once."""
        self.user.run(*self.arguments, code=code)

    def finish(self) -> None:
        """Submit the same again until the job has ended, as a user or a scheduler would."""
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            done = self.user.run(*self.arguments, "--wait", "--timeout", "120", code=None, timeout_s=180)
            if self.ledger.terminal() is not None and done.returncode in (0, 1, 2):
                return
        raise AssertionError(
            f"{self.job_id} has not ended in {END_S:.0f} s: {done.stderr}\n{self.user.logs(self.job_id)}"
        )

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = 120.0) -> None:
        """Wait until the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.job_id}: no {what} in {timeout_s:.0f} s\n{self.user.logs(self.job_id)}")
            time.sleep(0.1)

    def at_work(self) -> None:
        """Wait until a replica works on a shard."""
        self.wait(lambda: self.ended or any(self.ledger.attempts()), "attempt")

    @property
    def ended(self) -> bool:
        """Return whether the job has its terminal record."""
        return self.ledger.terminal() is not None

    def driver(self) -> psutil.Process | None:
        """Return the newest live driver of this job."""
        found = []
        for process in psutil.process_iter(["cmdline", "create_time"]):
            if is_driver(process.info["cmdline"] or [], self.job_id):
                found.append(process)
        return max(found, key=lambda process: process.info["create_time"], default=None)

    def submissions(self) -> list[Submission]:
        """Return what the cluster knows of the job's drivers."""
        return Submitter(self.world.nodes.dashboard_url, self.world.nodes.token_path).find(self.ledger.uri)

    def start_second_driver(self) -> str:
        """Start a driver beside the one that runs; return its submission id."""
        nodes, submission_id = self.world.nodes, f"{self.job_id}-second"
        settings = Settings(root=self.user.root, address=nodes.dashboard_url, token_path=nodes.token_path)
        client = BatchClient(settings)
        before = os.environ.get("AWS_ENDPOINT_URL")
        os.environ["AWS_ENDPOINT_URL"] = self.world.proxy.endpoint
        try:
            assert client.start_driver(self.ledger, self.ledger.spec(), submission_id)
        finally:
            os.environ["AWS_ENDPOINT_URL"] = before or ""
        return submission_id

    def replica_pids(self) -> list[int]:
        """Return the process ids of the job's live replicas."""
        progress = self.ledger.progress()
        pids = {attempt.pid for attempt in self.ledger.attempts()}
        pids |= {replica.pid for replica in (progress.replicas if progress else ())} - {0}
        return [pid for pid in pids if _is_replica(pid)]

    def check(self) -> Findings:
        """Check everything that must hold now that the job has ended and all faults are over."""
        stored, reference = Stored.of(self.ledger), self.world.reference
        findings = examine(
            stored,
            num_rows=NUM_ROWS,
            as_undisturbed=lambda key, data: not reference or is_as_undisturbed(data, reference.get(key)),
            damaged=self.damaged,
        )
        findings += Findings(violations=tuple(f"I5: left over: {each}" for each in self._left_over()))
        findings += Findings(violations=tuple(self._unfinished_uploads()))
        before, written = snapshot(self.ledger), sum(self.world.proxy.stored.values())
        # A job that ended without success refuses to be resumed.
        self.user.run("resume", self.job_id, code=None)
        if snapshot(self.ledger) != before or sum(self.world.proxy.stored.values()) != written:
            findings += Findings(violations=("I6: a rerun has written something",))
        findings += examine_traffic(self.world.proxy, self.job_id)
        canaries = {
            "a prompt": CANARY,
            "the store's secret key": s3.SECRET_KEY,
            "the cluster's token": self.world.nodes.token_path.read_text(),
        }
        said = [*self.user.said, repr(self.submissions())]
        return findings + examine_words(stored, canaries, said, self.world.nodes.logs_dir)

    def _left_over(self) -> list[str]:
        """Return the processes of any job that still run after a while (I5)."""
        deadline = time.monotonic() + 60
        while (left := self._ours()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return left

    def _ours(self) -> list[str]:
        found = []
        for process in self.world.nodes.processes():
            try:
                command = " ".join(process.cmdline()).strip()
                is_rays = command.startswith(RAYS_OWN) or "ray::" not in command
                if "workers.driver" in command or not is_rays:
                    found.append(f"{process.pid} {process.status()} {command}")
            except psutil.Error:
                continue
        return found

    def _unfinished_uploads(self) -> list[str]:
        listed = self.world.server.client().list_multipart_uploads(Bucket=BUCKET)
        return [f"I5: an unfinished upload of {upload['Key']}" for upload in listed.get("Uploads", ())]


@contextmanager
def open_world(folder: Path, num_nodes: int = 3) -> Iterator[World]:
    """Open a world; `fault_free` fills its reference. This process's own AWS environment leads past the proxy."""
    (folder / "failpoints").mkdir()
    with s3.running() as server, Proxy(server.endpoint) as proxy:
        server.client().create_bucket(Bucket=BUCKET)
        world = World(server, proxy, folder)
        world.start_cluster(num_nodes)
        try:
            with _environment(s3.environment(server.endpoint)):
                yield world
        finally:
            world.nodes.__exit__()


def fault_free(world: World) -> Findings:
    """Run one job without faults; its results are the reference for all others."""
    run = world.run("reference")
    run.submit()
    run.finish()
    findings = run.check()
    stored = Stored.of(run.ledger)
    world.reference |= {key: stored.objects[key] for key in stored.below(keys.RESULTS)}
    return findings


def kill(pid: int) -> None:
    """Send SIGKILL to a process, which may have ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def pick(chance: random.Random, pids: Sequence[int]) -> int | None:
    """Pick one of the process ids, or None if there are none."""
    return chance.choice(sorted(pids)) if pids else None


def _is_replica(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return "Replica" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
