"""Clients that open connections and then send, or read, nothing."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from jobs.serve import body_limit, connections
from jobs.serve.app import Limits
from tests.support.bounds import LOADED_S
from tests.unit.serve.conftest import TOKEN, serving
from tests.unit.serve.wire import connect, head, status, upload_head

HEADERS = {"authorization": f"Bearer {TOKEN}"}


def is_closed(client: socket.socket, timeout_s: float) -> bool:
    client.settimeout(timeout_s)
    try:
        while client.recv(2**20):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def is_held(client: socket.socket) -> bool:
    """Whether the server, a thread of this process, has its end of the connection open."""
    own_port = client.getsockname()[1]
    return any(each.raddr and each.raddr.port == own_port for each in psutil.Process().net_connections("tcp"))


@pytest.mark.timeout(180)
def test_300_half_sent_requests_of_each_kind_stop_nobody(root: Path, tmp_path: Path) -> None:
    """A real process with 200 file descriptors: the API answers, and the runner carries a batch to its end."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    command = [
        sys.executable,
        "-m",
        "jobs",
        "serve",
        "--engine",
        "fake",
        "--model-name",
        "demo",
        "--port",
        "0",
        "--json",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--root", str(root), "--token-file", str(tmp_path / "token")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)),
        )
    try:
        assert process.stdout is not None
        printed = ""
        while "}" not in printed:
            line = process.stdout.readline()
            assert line, (tmp_path / "log").read_text()
            printed += line
        url = json.loads(printed)["url"]
        kept = []
        json_head = head("POST /v1/batches", Content_Type="application/json", Content_Length="900")
        for data in (
            b"",
            b"POST /v1/files HTTP/1.1\r\nHost: loc",
            upload_head(10**6, token="wrong") + b"--b",
            upload_head(10**6) + b"--b",
            json_head + b"{",
        ):
            kept += [connect(url, data) for _ in range(300)]
            assert httpx.get(f"{url}/files", headers=HEADERS, timeout=20).status_code == 200
            assert len(os.listdir(f"/proc/{process.pid}/fd")) < 180
        file = {"file": ("a.jsonl", b"{broken")}
        uploaded = httpx.post(f"{url}/files", headers=HEADERS, files=file, data={"purpose": "batch"}, timeout=20)
        assert uploaded.status_code == 200, uploaded.text
        wanted = {
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        }
        batch = httpx.post(f"{url}/batches", headers=HEADERS, json=wanted, timeout=20).json()
        deadline = time.monotonic() + 20
        while batch["status"] == "validating":
            assert time.monotonic() < deadline
            time.sleep(0.1)
            batch = httpx.get(f"{url}/batches/{batch['id']}", headers=HEADERS, timeout=20).json()
        assert batch["status"] == "failed"
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        assert process.wait(20) is not None


def test_a_head_that_does_not_come_ends_the_connection(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    with serving(root) as server:
        silent, half = connect(server.url), connect(server.url, b"GET /healthz HTTP/1.1\r\nHost:")
        # A second request on a connection that has had its answer, byte by byte.
        dripping = connect(server.url, head("GET /healthz"))
        assert status(dripping) == 200
        assert is_closed(silent, 10)
        assert is_closed(half, 10)
        for _ in range(100):
            try:
                dripping.sendall(b"G")
            except OSError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("it goes on")


def test_an_answer_that_nobody_reads_ends_the_connection(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_S", 1.0)
    with serving(root) as server:
        data = b"".join(b'{"custom_id": "%d"}\n' % n for n in range(49_000)) + (b" " * 2**20 + b"\n") * 30
        file = server.client().files.create(file=("f.jsonl", data), purpose="batch")
        unread = connect(server.url, head(f"GET /v1/files/{file.id}/content"))
        unread.settimeout(10 + LOADED_S)
        seen = len(unread.recv(1))  # The answer has begun.
        deadline = time.monotonic() + 5 + LOADED_S
        while is_held(unread):
            assert time.monotonic() < deadline, "the server holds on to the connection"
            time.sleep(0.1)
        # What the two kernels hold can still be read; the rest was never sent.
        while some := unread.recv(2**20):
            seen += len(some)
        assert 0 < seen < len(data)
        assert server.client().files.content(file.id).read() == data


def test_a_body_that_does_not_come_is_408(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit.BodyLimit.__init__, "__defaults__", (1.0,))
    with serving(root, limits=Limits(uploads=1)) as server:
        stalled = connect(server.url, upload_head(1000) + b"--b")
        assert status(stalled) == 408
        # A trickle is no better than silence.
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        trickle = connect(server.url, upload_head(10**6) + part)
        began = time.monotonic()
        trickle.setblocking(False)
        while time.monotonic() - began < 5 + LOADED_S:
            try:
                trickle.send(b"-")
                assert trickle.recv(100).startswith(b"HTTP/1.1 408")
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            pytest.fail("a trickle goes on")
        assert server.client().files.create(file=("f", b"{}"), purpose="batch").bytes == 2


def test_a_connection_too_many_takes_the_place_of_the_one_that_has_waited_longest(root: Path) -> None:
    with serving(root, connections=10) as server:
        silent = [connect(server.url) for _ in range(30)]
        time.sleep(0.5)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert is_closed(silent[0], 5 + LOADED_S)
        assert not is_closed(silent[-1], 0.2)


def test_clients_that_send_a_large_body_read_why_it_is_refused(root: Path) -> None:
    with serving(root, limits=Limits(file_bytes=2**20)) as server:
        for token, expected in (("wrong", 401), (TOKEN, 413)):
            with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=30) as client:
                for _ in range(3):
                    found = client.post(f"{server.url}/v1/files", files={"file": b"x" * 40 * 2**20})
                    assert found.status_code == expected
                    assert client.get(f"{server.url}/healthz").status_code == 200
