"""The embedded cluster and the submission of drivers, on a real Ray head."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import SOCK_DGRAM
from threading import Thread

import psutil
import pytest

from jobs.cluster import embedded as cluster
from jobs.cluster import processes
from jobs.cluster.embedded import MARK, Cluster
from jobs.cluster.submission import ENDED, Submitter, describe
from jobs.errors import ClusterError, Exit

METADATA = describe(name="my job", job_id="j", job_uri="/jobs/j", dataset="d.parquet", model="m")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    before = os.environ.get("JOBS_STATE_DIR")
    # Longer than a Unix socket's path may be: the cluster must not put its sockets below it.
    os.environ["JOBS_STATE_DIR"] = str(tmp_path_factory.mktemp("state" + "x" * 100))
    try:
        yield cluster.up()
    finally:
        cluster.down()
        del os.environ["JOBS_STATE_DIR"]
        if before is not None:
            os.environ["JOBS_STATE_DIR"] = before


@pytest.fixture
def submitter(running: Cluster) -> Submitter:
    return Submitter(running.dashboard_url, running.token_path)


def members(started: Cluster) -> set[psutil.Process]:
    return processes.members(started.pid, started.mark)


def alive(group: set[psutil.Process]) -> list[psutil.Process]:
    return [each for each in group if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def ended(submitter: Submitter, submission_id: str, wait_s: float = 60.0) -> str:
    deadline = time.monotonic() + wait_s
    while (status := submitter.status(submission_id)) not in ENDED:
        assert time.monotonic() < deadline, f"{submission_id} is {status}"
        time.sleep(0.2)
    return str(status)


def start(submitter: Submitter, submission_id: str, entrypoint: str) -> None:
    assert submitter.run(submission_id, entrypoint, METADATA)


def test_up_again_gives_the_same_cluster(running: Cluster) -> None:
    assert cluster.up() == running
    assert cluster.current() == running


def test_token_file_is_private(running: Cluster) -> None:
    assert stat.S_IMODE(running.token_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.temp_dir.stat().st_mode) == 0o700
    assert len(running.token_path.read_text()) >= 32


@pytest.mark.parametrize(("token", "code"), [(None, 401), ("0" * 64, 403)])
def test_job_api_refuses_strangers(running: Cluster, token: str | None, code: int) -> None:
    request = urllib.request.Request(f"{running.dashboard_url}/api/jobs/")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == code


def test_it_listens_to_this_machine_only(running: Cluster) -> None:
    """Every socket of every process: the dashboard and the metrics, and Ray's own ports, which ask for no token."""
    sockets = []
    for process in members(running):
        with suppress(psutil.NoSuchProcess):
            sockets += [
                (process.name(), socket.laddr.ip.removeprefix("::ffff:"), socket.laddr.port)
                for socket in process.net_connections(kind="inet")
                if socket.status == psutil.CONN_LISTEN or socket.type == SOCK_DGRAM
            ]
    assert len({name for name, _, _ in sockets}) >= 3, "the head, its raylet, the dashboard"
    assert [socket for socket in sockets if not ip_address(socket[1]).is_loopback] == []


def test_wrong_token_is_explained(running: Cluster, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    for token_path in (None, tmp_path / "token"):
        with pytest.raises(ClusterError, match="refuses the token") as caught:
            Submitter(running.dashboard_url, token_path)
        assert "--token-path" in caught.value.hint
        assert caught.value.exit_code == Exit.UNREACHABLE


def test_nobody_there_is_explained() -> None:
    with pytest.raises(ClusterError, match="cannot be reached"):
        Submitter("http://127.0.0.1:9")


def test_submitted_driver_runs_and_its_id_is_taken(submitter: Submitter) -> None:
    uri = "/no such; touch place"
    assert submitter.submit(uri, "driver-1", METADATA, {})
    assert not submitter.submit(uri, "driver-1", METADATA, {})
    # There is no such job, so the driver fails, but it got the URI as one word of its command line.
    assert ended(submitter, "driver-1") == "FAILED"
    assert "python -m workers.driver '/no such; touch place'" in submitter.logs("driver-1")


def test_driver_sees_the_clusters_python_and_an_authorised_ray(submitter: Submitter) -> None:
    code = "import ray, sys; ray.init(); print(ray.get(ray.remote(lambda: 6 * 7).remote()), sys.executable)"
    start(submitter, "trivial", f'python -c "{code}"')
    assert "".join(submitter.tail("trivial")).rstrip().endswith(f"42 {Path(sys.executable).parent / 'python'}")
    assert ended(submitter, "trivial") == "SUCCEEDED"
    found = submitter.find("/jobs/j")[0]
    assert (found.submission_id, found.status) == ("trivial", "SUCCEEDED")
    assert found.metadata["job_name"] == "my job"
    assert submitter.find("/elsewhere/j") == []


def test_stop_ends_the_driver(submitter: Submitter) -> None:
    start(submitter, "sleeper", "sleep 3600")
    deadline = time.monotonic() + 60
    while submitter.status("sleeper") == "PENDING":  # such a driver is not waited for
        assert time.monotonic() < deadline
        time.sleep(0.1)
    submitter.stop("sleeper", wait_s=30)
    assert submitter.status("sleeper") == "STOPPED"
    submitter.stop("sleeper")
    submitter.stop("never-heard-of")
    assert submitter.status("never-heard-of") is None


def test_unknown_submission_has_no_logs(submitter: Submitter) -> None:
    with pytest.raises(ClusterError, match="does not know nothing-1"):
        submitter.logs("nothing-1")
    with pytest.raises(ClusterError, match="no log of nothing-1"):
        list(submitter.tail("nothing-1"))


def test_rays_own_variables_do_not_redirect(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert Submitter(running.dashboard_url, running.token_path).resources()["CPU"] >= 4


UP = "from jobs.cluster import embedded as cluster; print(cluster.up())"


@pytest.fixture
def another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("JOBS_STATE_DIR", str(tmp_path))
        yield
        cluster.down()


@pytest.mark.usefixtures("another_place")
def test_life_beside_another_cluster(running: Cluster) -> None:
    """Two `up` at once; a kill of the head; a fresh start; `down` with work running, which leaves nothing."""
    both = [subprocess.Popen([sys.executable, "-c", UP], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {each.communicate(timeout=180)[0].strip() for each in both}
    first = cluster.current()
    assert first is not None
    assert first.address
    assert printed == {str(first)}
    assert first.dashboard_url != running.dashboard_url
    assert cluster.current() != running

    old = members(first)
    os.kill(first.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while processes.leader(first.pid, first.mark) is not None:  # the kernel takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = cluster.up()
    assert second.pid != first.pid
    assert not first.temp_dir.exists()
    assert alive(old) == []

    submitter = Submitter(second.dashboard_url, second.token_path)
    nap = "import ray, time; ray.init(); ray.get([ray.remote(lambda: time.sleep(3600)).remote() for _ in range(2)])"
    start(submitter, "busy", f'python -c "{nap}"')
    deadline = time.monotonic() + 60
    while sum(process.name().startswith("ray::<lambda>") for process in members(second)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    everything = members(second)
    names = " ".join(process.name() for process in everything)
    assert all(part in names for part in ("gcs_server", "raylet", "ray::JobSuperv", "ray::Dashboard"))

    assert cluster.down()
    assert alive(everything) == []
    assert members(second) == set()
    assert cluster.current() is None
    assert not second.temp_dir.exists()
    assert not second.token_path.exists()
    assert not cluster.down()
    # The other cluster has not noticed.
    assert Submitter(running.dashboard_url, running.token_path).find("nothing") == []


def test_recycled_pid_is_not_our_cluster() -> None:
    ours, other = (MARK, "/tmp/nb-ours"), (MARK, "/tmp/nb-other")
    sleeper = subprocess.Popen(["sleep", "3600"], start_new_session=True, env=dict([ours]))
    try:
        assert processes.leader(sleeper.pid, ours) is not None
        assert processes.leader(sleeper.pid, other) is None
        assert processes.end(sleeper.pid, other, grace_s=1, wait_s=5)
        assert sleeper.poll() is None
        assert processes.end(sleeper.pid, ours, grace_s=1, wait_s=5)
    finally:
        sleeper.kill()
        sleeper.wait(timeout=10)


def test_a_clock_that_was_set_does_not_lose_the_cluster(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux derives when a process started from the clock of now."""
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() - 3600)
    assert cluster.current() == running


def test_a_start_waits_until_its_address_is_written(tmp_path: Path) -> None:
    """Ray opens the file of its address and then writes to it; a cluster taken over in between had none, for ever."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "token").write_text("0" * 64)
    address_file = tmp_path / "ray" / "ray_current_cluster"
    asked = 0

    class JobApi(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked
            asked += 1
            address_file.write_text("127.0.0.1:6379" if asked == 3 else "")
            self.send_response(200)
            self.end_headers()

    head = subprocess.Popen(["sleep", "3600"])
    with HTTPServer(("127.0.0.1", 0), JobApi) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            started = Cluster(
                address="",
                dashboard_url=f"http://127.0.0.1:{server.server_port}",
                token_path=tmp_path / "token",
                pid=head.pid,
                started_at=time.time(),
                temp_dir=tmp_path,
            )
            assert cluster._wait(started, head).address == "127.0.0.1:6379"
            assert asked == 3
        finally:
            server.shutdown()
            head.kill()
            head.wait(timeout=10)


def test_failed_start_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path))
    # Ray checks this hook at its start; a name that does not exist stands for any broken installation.
    monkeypatch.setenv("RAY_START_HOOK", "no_such_module.hook")
    with pytest.raises(ClusterError, match=r"(?s)ended while it started:.*no_such_module"):
        cluster.up()
    assert cluster.current() is None
    assert sorted(path.name for path in (tmp_path / "cluster").iterdir()) == ["lock", "ray.log"]


def test_unwritable_state_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "file"))
    with pytest.raises(ClusterError, match="Cannot write the embedded cluster's state"):
        cluster.up()
