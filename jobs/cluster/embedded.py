"""The embedded cluster: a private Ray head on this machine, with dashboard, job API and token auth."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from jobs import signals
from jobs.cluster import processes
from jobs.errors import ClusterError

MARK = "NIGHTBATCH_CLUSTER"
"""Environment variable that every process of an embedded cluster inherits; its value is the temp dir."""

START_S = 90.0
"""Longest wait for the job API. A warm start takes 4 to 8 s; slow disks need more."""

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray 2.60 takes a node's address from its default route, even if 127.0.0.1 is requested, and then listens on every
interface. This switch is off by default on macOS; switched off on any system, it keeps all of Ray's ports on the
loopback interface (`ray._private.services.get_node_ip_address`). Clients need it too, to look for the node there."""

_LOCK_S = START_S + 60.0
_GRACE_S = 10.0
_DOWN_S = 40.0
_MAX_OBJECT_STORE_BYTES = 2 * 2**30
_MIN_CPUS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A running embedded cluster.

    Attributes:
        address: `host:port` of Ray's control service, for `ray.init(address=…)`.
        dashboard_url: the dashboard and the job API; like all ports of the cluster, on the loopback interface only.
        token_path: file with the token that every call must carry; only this user can read it.
        pid: the process that leads the cluster's session.
        started_at: start time in seconds since the epoch; for display only, since clocks can be set.
        temp_dir: Ray's logs, sockets and spilled objects; removed by `down`.
    """

    address: str
    dashboard_url: str
    token_path: Path
    pid: int
    started_at: float
    temp_dir: Path

    @property
    def mark(self) -> tuple[str, str]:
        """Environment variable and value that every process of this cluster has, and no other process."""
        return MARK, str(self.temp_dir)

    def environment(self) -> dict[str, str]:
        """Return the environment that a process needs to use this cluster through the Ray SDK."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            **_LOOPBACK,
        }


def state_dir() -> Path:
    """Return the directory with the embedded cluster's state. There is one cluster per directory."""
    if given := os.environ.get("JOBS_STATE_DIR"):
        return Path(given).expanduser().absolute() / "cluster"
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "nightbatch" / "cluster"


def log_path() -> Path:
    """Return the path of the log with Ray's output during its start."""
    return state_dir() / "ray.log"


def metrics_path() -> Path:
    """Return the path of Prometheus' list of this cluster's endpoints (`file_sd_configs`), kept across restarts."""
    return state_dir() / "prometheus-targets.json"


def current() -> Cluster | None:
    """Return the running embedded cluster, or None. A cluster that is still starting does not count."""
    cluster = _read()
    ready = cluster is not None and cluster.address and processes.leader(cluster.pid, cluster.mark)
    return cluster if ready else None


def up() -> Cluster:
    """Start the embedded cluster, or return the running one. Concurrent callers get the same cluster.

    Raises:
        ClusterError: it did not come up; the message ends with Ray's last output.
    """
    with _locked():
        if running := current():
            return running
        _clear()
        return _start()


def down() -> bool:
    """End every process of the embedded cluster and remove its state. Running jobs are interrupted; their finished
    rows are kept.

    Returns:
        True if a cluster was running.

    Raises:
        ClusterError: one of its processes could not be ended.
    """
    with _locked():
        running = current()
        if running is not None:
            _stop_drivers(running)
        _clear()
        return running is not None


def _stop_drivers(cluster: Cluster) -> None:
    """Let running jobs save their finished rows. A driver that does not stop in time ends with the cluster."""
    from jobs.cluster.submission import Submitter

    with suppress(ClusterError):
        Submitter(cluster.dashboard_url, cluster.token_path).stop_all()


def _clear(*, grace_s: float = _GRACE_S) -> None:
    """End the processes of a previous cluster, whether its head lives or was killed, and remove its files."""
    if cluster := _read():
        if not processes.end(cluster.pid, cluster.mark, grace_s=grace_s, wait_s=_DOWN_S):
            raise ClusterError(
                f"A process of the embedded cluster did not end within {_DOWN_S:.0f} s.",
                hint=f"Look for processes with {cluster.temp_dir} in their command line, then try again.",
            )
        shutil.rmtree(cluster.temp_dir, ignore_errors=True)
    for name in ("cluster.json", "token", "prometheus-targets.json"):
        (state_dir() / name).unlink(missing_ok=True)


def _start() -> Cluster:
    with ExitStack() as starting:
        with signals.at_once():
            starting.enter_context(signals.leftover(partial(_clear, grace_s=0.0)))
            cluster, head = _launch()
        try:
            cluster = _wait(cluster, head)
            with signals.at_once():
                _write(cluster)
        except BaseException:
            _clear()
            raise
    return cluster


def _launch() -> tuple[Cluster, subprocess.Popen[bytes]]:
    # Unix socket paths have at most 107 bytes, so this path is short. Ray opens its own directory to everybody,
    # so it lies inside this one, which only this user can enter.
    short = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None  # noqa: S108
    temp_dir = Path(tempfile.mkdtemp(prefix="nb-", dir=short))
    token_path = _new_token()
    dashboard_port, client_port, *metric_ports = _free_ports(4)
    with log_path().open("wb") as log:
        head = subprocess.Popen(
            _command(temp_dir, dashboard_port, client_port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(temp_dir, token_path, metric_ports),
            # Not the user's directory: `python -m workers.driver` would import a folder of that name there.
            cwd=state_dir(),
            start_new_session=True,
        )
    cluster = Cluster(
        address="",
        dashboard_url=f"http://127.0.0.1:{dashboard_port}",
        token_path=token_path,
        pid=head.pid,
        started_at=time.time(),
        temp_dir=temp_dir,
    )
    # A link, because the file lies in a directory whose name changes. Ray writes it a little later.
    metrics_path().symlink_to(temp_dir / "ray" / "prom_metrics_service_discovery.json")
    # Written before the wait: if this process is killed, the next `up` or `down` finds what to end.
    _write(cluster)
    return cluster, head


def _wait(cluster: Cluster, head: subprocess.Popen[bytes]) -> Cluster:
    # Imported here: commands ask for the running cluster, and seldom start one.
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + START_S
    request = urllib.request.Request(  # noqa: S310
        f"{cluster.dashboard_url}/api/jobs/",
        headers={"Authorization": f"Bearer {cluster.token_path.read_text()}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address_file = cluster.temp_dir / "ray" / "ray_current_cluster"
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise ClusterError(f"The embedded Ray cluster ended while it started:\n{_last_lines()}", hint=_LOG_HINT)
        try:
            with opener.open(request, timeout=5):
                # Ray opens the file before it writes to it, so for a moment it is there and empty.
                if address := address_file.read_text().strip():
                    return Cluster(**{**asdict(cluster), "address": address})
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise ClusterError(
        f"The embedded Ray cluster gave no answer within {START_S:.0f} s:\n{_last_lines()}", hint=_LOG_HINT
    )


_LOG_HINT = "Run `jobs doctor`, or join a cluster that runs with --address http://HOST:8265."


def _last_lines() -> str:
    return "\n".join(log_path().read_text(errors="replace").splitlines()[-15:])


def _command(temp_dir: Path, dashboard_port: int, client_port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        # Port 0 means any free one, so that several embedded clusters can share a machine.
        "--port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        f"--ray-client-server-port={client_port}",
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--temp-dir={temp_dir / 'ray'}",
        f"--num-cpus={_num_cpus()}",
        f"--object-store-memory={_object_store_bytes()}",
        "--disable-usage-stats",
        "--log-color=false",
    ]


def _environment(temp_dir: Path, token_path: Path, metric_ports: list[int]) -> dict[str, str]:
    """Build the head's environment: the user's own, so that credentials and proxies reach the workers, plus ours."""
    # An address or token of another cluster would redirect this cluster's own processes.
    foreign = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    return {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        MARK: str(temp_dir),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **_LOOPBACK,
        # Ray drains for 20 s on SIGTERM, for services with traffic. Jobs can be resumed, so there is no reason to wait.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "DASHBOARD_METRIC_PORT": str(metric_ports[0]),
        "AUTOSCALER_METRIC_PORT": str(metric_ports[1]),
    }


def _num_cpus() -> int:
    """Return the number of logical CPUs to offer: those of this machine, but at least 4.

    Ray's CPUs are admission tickets, not cores. A job needs two replicas, the driver's actors and
    staging tasks at once; with 2 tickets they would wait for each other on a 2-core laptop.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, -(-int(quota[0]) // int(quota[1])))
    return max(cores, _MIN_CPUS)


def _object_store_bytes() -> int:
    """Return the object store's size: at most 2 GiB and 30 % of memory. Staging spills to disk, models cannot."""
    import psutil

    memory = psutil.virtual_memory().total
    limit = _cgroup("memory.max")
    if limit and limit[0].isdigit():
        memory = min(memory, int(limit[0]))
    return min(_MAX_OBJECT_STORE_BYTES, memory * 3 // 10)


def _cgroup(name: str) -> list[str]:
    """Read a limit of this container as words; [] outside a container."""
    try:
        return Path("/sys/fs/cgroup", name).read_text().split()
    except OSError:
        return []


def _free_ports(count: int) -> list[int]:
    """Find ports that nothing listens on. Ray binds them seconds later, and its head exits if the client server's port
    is taken by then, so they lie below the system's ephemeral ports (Linux: from 32768 on)."""
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def _new_token() -> Path:
    path = state_dir() / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _read() -> Cluster | None:
    try:
        values = json.loads((state_dir() / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    return Cluster(**{**values, "token_path": Path(values["token_path"]), "temp_dir": Path(values["temp_dir"])})


def _write(cluster: Cluster) -> None:
    path = state_dir() / "cluster.json"
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(asdict(cluster), default=str, indent=1) + "\n")
    staged.replace(path)


@contextmanager
def _locked() -> Iterator[None]:
    """Hold this state directory's lock. The system drops it when the holder dies."""
    try:
        state_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
        state_dir().chmod(0o700)
        file = (state_dir() / "lock").open("w")
    except OSError as error:
        raise ClusterError(
            f"Cannot write the embedded cluster's state to {state_dir()}: {error.strerror}.",
            hint="Set JOBS_STATE_DIR to a directory that you can write to.",
        ) from error
    with file:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"Another process has been starting or stopping the embedded cluster for {_LOCK_S:.0f} s.",
                        hint="Wait for it to end, then try again.",
                    ) from None
                time.sleep(0.1)
        yield
