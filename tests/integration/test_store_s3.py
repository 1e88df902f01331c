"""The S3 store against a server process, through a proxy that loses answers, stalls and says no."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import Exit, StoreError
from jobs.store.probe import check_write_once
from jobs.store.s3 import S3Store
from jobs.store.s3_client import _make_client
from tests.chaos.s3_proxy import (
    ALL_FAULTS,
    CONFLICT,
    CORRUPT,
    ERROR,
    ERROR_APPLIED,
    RESET,
    RESET_APPLIED,
    RESET_IN_ANSWER,
    RESET_IN_REQUEST,
    SLOW_DOWN,
    WRITE_FAULTS,
    Fault,
    Proxy,
    Request,
    always,
    no_faults,
    script,
    seeded,
    throttled,
)
from tests.support.bounds import LOADED_S
from tests.support.s3 import SECRET_KEY, S3Server, running, use


@pytest.fixture
def store(s3_bucket: str, s3_proxy: Proxy) -> S3Store:
    return S3Store(s3_bucket, "jobs", patience_s=20, read_timeout_s=2)


def raw(server: S3Server, bucket: str) -> dict[str, bytes]:
    client = server.client()
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}


@pytest.mark.parametrize(
    "fault",
    [*WRITE_FAULTS, RESET_IN_REQUEST, CORRUPT, Fault(applied=True, delay_s=3.0)],
    ids=repr,
)
def test_a_lost_answer_to_our_own_write_is_still_our_write(
    store: S3Store, s3_proxy: Proxy, s3_server: S3Server, s3_bucket: str, fault: Fault
) -> None:
    s3_proxy.faults = script(fault)
    assert store.put_new("x", b"ours", writer="w1") is True
    assert raw(s3_server, s3_bucket) == {"jobs/x": b"ours"}
    assert [r.method for r in s3_proxy.requests].count("PUT") == 2


@pytest.mark.parametrize("fault", WRITE_FAULTS, ids=repr)
def test_trouble_before_anothers_write_does_not_make_it_ours(store: S3Store, s3_proxy: Proxy, fault: Fault) -> None:
    assert store.put_new("x", b"theirs", writer="w1")
    s3_proxy.faults = script(fault, fault)
    assert store.put_new("x", b"ours", writer="w2") is False
    assert store.get("x") == b"theirs"


def test_a_restarted_writer_recognises_its_write(store: S3Store) -> None:
    assert store.put_new("x", b"ours", writer="w1")
    assert pickle.loads(pickle.dumps(store)).put_new("x", b"ours", writer="w1") is True


def test_lost_answers_to_the_comparison_are_retried_too(store: S3Store, s3_proxy: Proxy) -> None:
    assert store.put_new("x", b"theirs", writer="w1")
    s3_proxy.faults = script(RESET, ERROR, SLOW_DOWN, method="HEAD")
    assert store.put_new("x", b"ours", writer="w2") is False


def test_every_condition_goes_out_with_every_try(store: S3Store, s3_proxy: Proxy) -> None:
    s3_proxy.faults = script(RESET, ERROR, CONFLICT, SLOW_DOWN)
    assert store.put_new("x", b"ours", writer="w1")
    puts = [request for request in s3_proxy.requests if request.method == "PUT"]
    assert len(puts) == 5
    assert all(request.conditional for request in puts)


def test_a_commit_is_one_put_with_a_checksum_whatever_its_size(store: S3Store, s3_proxy: Proxy) -> None:
    data = os.urandom(20 * 2**20)  # More than what boto3's own uploads would cut into parts.
    assert store.put_new("large", data, writer="w1")
    store.put("advisory", b"{}")
    puts = [request for request in s3_proxy.requests if request.method == "PUT"]
    assert [request.checksum for request in puts] == ["content-md5"] * 2
    assert not any(request.multipart for request in s3_proxy.requests)
    assert store.get("large") == data


def test_a_body_that_was_damaged_on_the_way_is_never_stored(
    store: S3Store, s3_proxy: Proxy, s3_server: S3Server, s3_bucket: str
) -> None:
    s3_proxy.faults = script(CORRUPT, CORRUPT, CORRUPT)
    assert store.put_new("x", b"ours", writer="w1")
    assert s3_proxy.stored.total() == 1
    assert raw(s3_server, s3_bucket) == {"jobs/x": b"ours"}


def test_an_answer_that_breaks_off_is_fetched_again(store: S3Store, s3_proxy: Proxy) -> None:
    data = os.urandom(2**20)
    store.put("x", data)
    s3_proxy.faults = script(RESET_IN_ANSWER, RESET_IN_ANSWER, method="GET")
    assert store.get("x") == data


def test_throttling_slows_down_and_loses_nothing(store: S3Store, s3_proxy: Proxy) -> None:
    s3_proxy.faults = throttled(10)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda i: store.put_new(f"k{i}", b"%d" % i, writer=f"w{i}"), range(24)))
    s3_proxy.faults = no_faults
    assert {info.key: store.get(info.key) for info in store.list()} == {f"k{i}": b"%d" % i for i in range(24)}


def test_limits_of_the_client_are_set_and_not_botos() -> None:
    config = _make_client(os.getpid(), (), 30.0).meta.config
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (5.0, 30.0, 32)
    # Retries are ours alone: one layer, with a deadline.
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}


def test_a_list_of_jobs_loads_botocore_alone(s3_bucket: str, tmp_path: Path) -> None:
    code = "import sys; from jobs.cli import main; print(main(sys.argv[1:]), *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "list", "--root", f"s3://{s3_bucket}/jobs"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "JOBS_STATE_DIR": str(tmp_path)},
    )
    code_of, *loaded = done.stdout.splitlines()[-1].split()
    assert (code_of, "botocore.client" in loaded) == ("0", True), done.stderr
    assert not {"boto3", "s3transfer", "requests", "pyarrow"} & {*loaded}


def test_racing_writers_under_faults_have_one_winner_each(store: S3Store, s3_proxy: Proxy) -> None:
    s3_proxy.faults = seeded(7, 0.3, ALL_FAULTS)
    for round_ in range(8):
        gate = threading.Barrier(8)

        def write(i: int, key: str = f"r{round_}", gate: threading.Barrier = gate) -> bool:
            gate.wait(10)
            return store.put_new(key, b"%d" % i, writer=f"w{i}")

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert won.count(True) == 1
        assert store.get(f"r{round_}") == b"%d" % won.index(True)


@pytest.mark.parametrize("fault", [RESET, ERROR, SLOW_DOWN, ERROR_APPLIED, RESET_APPLIED, Fault(delay_s=5)], ids=repr)
def test_an_outage_ends_in_an_error_in_bounded_time(s3_bucket: str, s3_proxy: Proxy, fault: Fault) -> None:
    store = S3Store(s3_bucket, "", patience_s=2, read_timeout_s=1)
    s3_proxy.faults = always(fault)
    started = time.monotonic()
    with pytest.raises(StoreError, match="Cannot use s3://") as caught:
        store.put_new("x", b"ours", writer="w1")
    assert time.monotonic() - started < 4 + LOADED_S
    assert caught.value.exit_code == Exit.UNREACHABLE
    assert caught.value.hint
    s3_proxy.faults = no_faults
    assert store.put_new("x", b"ours", writer="w1") is True


def test_reads_and_listings_survive_faults(store: S3Store, s3_proxy: Proxy) -> None:
    for i in range(5):
        store.put_new(f"k{i}", b"%d" % i, writer="w")
    s3_proxy.faults = seeded(3, 0.4, ALL_FAULTS)
    for _ in range(5):
        assert [info.key for info in store.list()] == [f"k{i}" for i in range(5)]
        assert [store.get(f"k{i}") for i in range(5)] == [b"%d" % i for i in range(5)]
        assert store.get("none") is None


def test_the_probe_refuses_a_server_that_ignores_the_condition(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(s3_server.endpoint, drop_conditions=True) as proxy:
        use(monkeypatch, proxy.endpoint)
        with pytest.raises(StoreError, match="If-None-Match"):
            check_write_once(S3Store(s3_bucket, ""))
    assert raw(s3_server, s3_bucket) == {}


def test_a_forked_child_gets_a_client_of_its_own(store: S3Store) -> None:
    store.put("x", b"1")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get("x") == b"1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("x") == b"1"


def test_no_such_bucket(s3_bucket: str) -> None:
    with pytest.raises(StoreError, match="no such bucket") as caught:
        check_write_once(S3Store(f"{s3_bucket}-not", ""))
    assert caught.value.hint


def test_nobody_listens(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
    started = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        check_write_once(S3Store(s3_bucket, "", patience_s=1))
    assert time.monotonic() - started < 3 + LOADED_S


def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="no complete AWS credentials"):
        check_write_once(S3Store(s3_bucket, ""))


@pytest.fixture(scope="module")
def guarded() -> Iterator[S3Server]:
    """A server that checks credentials once a bucket is there."""
    with running({"INITIAL_NO_AUTH_ACTION_COUNT": "1"}) as server:
        server.client().create_bucket(Bucket="guarded")
        yield server


def test_an_unknown_access_key(guarded: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, guarded.endpoint)
    with pytest.raises(StoreError, match="does not know the access key") as caught:
        check_write_once(S3Store("guarded", ""))
    told = f"{caught.value} {caught.value.hint}"
    assert SECRET_KEY not in told
    assert "AKIA" not in told


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "AccessDenied", "denies access"),
        (403, "SignatureDoesNotMatch", "refuses the secret key"),
        (400, "ExpiredToken", "has expired"),
        (400, "AuthorizationHeaderMalformed", "another region"),
        (501, "NotImplemented", "lacks conditional writes"),
        (418, "Teapot", "answers Teapot"),
    ],
)
def test_refusals_are_told_at_once(s3_proxy: Proxy, store: S3Store, status: int, code: str, sentence: str) -> None:
    requests: list[Request] = []

    def refuse(request: Request) -> Fault:
        requests.append(request)
        return Fault(status=status, code=code)

    s3_proxy.faults = refuse
    with pytest.raises(StoreError, match=sentence) as caught:
        store.put_new("x", b"", writer="w")
    assert sum(request.method == "PUT" for request in requests) == 1
    assert caught.value.hint
    if status == 403:
        with pytest.raises(StoreError, match="denies access"):
            store.head("x")
