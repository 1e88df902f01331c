"""A signal at every stage of every command: it ends at once, says what stands, and leaves nothing behind.

A stage is a request to the store that is never answered: the n-th, for every n that the command gets to. So the command
is held where it would otherwise be for a moment only, and a store that goes silent is tried at every request, too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import StoreError
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.threads import in_threads
from tests.chaos.s3_proxy import Fault, Proxy, Request
from tests.support import s3
from tests.support.bounds import LOADED_S, loaded_s
from tests.support.harness import COMMAND
from tests.unit.results.ledgers import make_job, succeed

WITHIN_S = 2.0
STARTING_S = 60.0
MOST_STAGES = 40
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGQUIT: 131}
SHARDS = [list(range(i, 60, 3)) for i in range(3)]
NOTHING = r"Nothing was changed\."


@dataclass(frozen=True)
class Command:
    """One command line. The job `done` has succeeded, `open` has no driver, `{bucket}` is a bucket.

    Attributes:
        stands: what it says at the end, a pattern; the stages differ.
    """

    line: str
    stands: str = NOTHING

    def __str__(self) -> str:
        return self.line


MAYBE_SUBMITTED = r"(Nothing was submitted\.|Job new may have been submitted, .*)"

COMMANDS = (
    Command("list"),
    Command("status open"),
    Command("watch open", r"Job open goes on without you: \S*jobs watch open, or end it: \S*jobs cancel open"),
    Command("wait open", r"Job open goes on without you: .*"),
    Command("logs open", r"These are not all lines\."),
    Command("logs -f open", r"Not following any more; job open goes on\."),
    Command(
        "cancel open",
        r"Job open (may have been cancelled: \S*jobs status open;|is CANCELLED; its driver may).*",
    ),
    Command(
        "resume open",
        r"Job open may have been resumed: \S*jobs status open; the same command again does no harm\.",
    ),
    Command("results done out.parquet", rf"({NOTHING}|Nothing was written to out\.parquet\.)"),
    Command("results done s3://{bucket}/out.jsonl", rf"({NOTHING}|Nothing was .*|Whether s3.* is not known: .*)"),
    Command("results done -", rf"({NOTHING}|The output is not whole\.)"),
    Command("results done --verify --head 3"),
    Command("report done out.html", rf"({NOTHING}|Nothing was written to out\.html\.)"),
    Command("compare done done --out changed.parquet", rf"({NOTHING}|Nothing was written to changed\.parquet\.)"),
    Command("sql done 'select count(*), max(generated_text) from results'"),
    Command("plan s3://{bucket}/rows.parquet --engine fake"),
    Command("submit rows.parquet --engine fake --id new", MAYBE_SUBMITTED),
    Command("submit s3://{bucket}/rows.parquet --engine fake --id new", MAYBE_SUBMITTED),
    Command("serve --engine fake --port 0", rf"({NOTHING}|No request is answered any more;.*)"),
    Command("doctor"),
    Command("schedule create new --cron '0 2 * * *' rows.parquet --engine fake", rf"({NOTHING}|The schedule may .*)"),
    Command("schedule list"),
    Command("schedule serve", rf"({NOTHING}|No run begins any more;.*)"),
)


@dataclass
class Silence:
    """A fault of the proxy: requests after the first `after` are never answered."""

    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    _seen: int = 0

    def __call__(self, _: Request) -> Fault | None:
        self._seen += 1
        if self._seen <= self.after:
            return None
        self.reached.set()
        self.over.wait(120)
        return Fault()


@dataclass
class Place:
    """Where one command runs: a folder, a temporary directory and a bucket of its own."""

    folder: Path
    proxy: Proxy
    server: s3.S3Server
    bucket: str
    mark: str = field(default_factory=lambda: uuid4().hex)

    def prepare(self) -> None:
        """Make what the commands work on."""
        (self.folder / "tmp").mkdir()
        pq.write_table(pa.table({"prompt": [f"row {n}" for n in range(20)]}), self.folder / "rows.parquet")
        self.server.client().put_object(
            Bucket=self.bucket, Key="rows.parquet", Body=(self.folder / "rows.parquet").read_bytes()
        )
        (self.folder / "out.parquet").write_bytes(b"as it was")
        store = open_store(f"s3://{self.bucket}/jobs")
        succeed(make_job(store, SHARDS, job_id="done"))
        make_job(store, SHARDS, commit=[0], job_id="open")

    def start(self, command: Command, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its environment tells its children from all other processes."""
        own = {
            **{name: value for name, value in os.environ.items() if not name.startswith("JOBS_")},
            **s3.environment(self.proxy.endpoint),
            "JOBS_ROOT": f"s3://{self.bucket}/jobs",
            "JOBS_STATE_DIR": str(self.folder / "state"),
            "JOBS_ADDRESS": "http://127.0.0.1:9",
            "TMPDIR": str(self.folder / "tmp"),
            "XDG_CONFIG_HOME": str(self.folder),
            "SIGNALS_TEST": self.mark,
            **environment,
        }
        return subprocess.Popen(
            [COMMAND, *shlex.split(command.line.format(bucket=self.bucket))],
            cwd=self.folder,
            env=own,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def files(self) -> dict[str, bytes]:
        """Every file of the folder, but the state of clusters and servers."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.relative_to(self.folder).parts[0] != "state"
        }

    def processes(self) -> list[str]:
        """What still runs of the command, after a moment."""
        deadline = time.monotonic() + 3
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SIGNALS_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def place(tmp_path: Path, s3_proxy: Proxy, s3_server: s3.S3Server, s3_bucket: str) -> Place:
    place = Place(tmp_path, s3_proxy, s3_server, s3_bucket)
    place.prepare()
    return place


def interrupt(process: subprocess.Popen[str], *signals: signal.Signals) -> tuple[str, str]:
    """Send the signals, one right after the other; the process ends in time, with the code of the first."""
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    try:
        out, said = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    took_s = time.monotonic() - began
    assert process.returncode == CODES[signals[0]], said
    assert took_s < WITHIN_S + loaded_s(), f"{took_s:.1f} s"
    return out, said


def check_words(said: str, first: signal.Signals, stands: str) -> None:
    """One line at the end that says what stands, and nothing that frightens."""
    how = "Interrupted." if first == signal.SIGINT else f"Ended by {first.name}."
    last = said.rstrip("\n").rpartition("\n")[2]
    assert re.fullmatch(rf"{re.escape(how)} {stands}", last), said
    for word in ("Traceback", "Exception ignored", "fault of the program", "Error:"):
        assert word not in said, said


def play(place: Place, command: Command, stage: int, *signals: signal.Signals) -> bool:
    """Hold a command at a stage and send it signals there; False if it ends before that stage."""
    before, silence = place.files(), Silence(stage)
    place.proxy.faults = silence
    process = place.start(command)
    try:
        deadline = time.monotonic() + STARTING_S
        while not silence.reached.wait(0.05):
            assert time.monotonic() < deadline, f"stage {stage} of {command} neither comes nor is passed"
            if process.poll() is not None:
                return False
        time.sleep(0.1)
        _, said = interrupt(process, *signals)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        silence.over.set()
    # The first request finds the job: a command that has none has changed nothing.
    check_words(said, signals[0], command.stands if stage else rf"({NOTHING}|{command.stands})")
    assert place.processes() == []
    assert place.files() == before
    uploads = place.server.client().list_multipart_uploads(Bucket=place.bucket).get("Uploads", [])
    assert [upload["Key"] for upload in uploads] == []
    return True


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_at_the_first_request(place: Place, command: Command) -> None:
    assert play(place, command, 0, list(CODES)[COMMANDS.index(command) % len(CODES)])


@pytest.mark.parametrize(("name", "stage"), [("results done out", 3), ("cancel", 1), ("watch", 4), ("sql", 5)])
def test_twice_in_the_midst(place: Place, name: str, stage: int) -> None:
    [command] = [command for command in COMMANDS if command.line.startswith(name)]
    assert play(place, command, stage, signal.SIGINT, signal.SIGINT)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_at_every_request(place: Place, command: Command, number: signal.Signals) -> None:
    stage = 0
    while stage < MOST_STAGES and play(place, command, stage, number):
        stage += 1
    assert stage > 0


@pytest.mark.parametrize("line", ["submit rows.parquet --engine fake --id new", "resume open", "doctor", "status open"])
def test_a_cluster_that_never_answers(place: Place, line: str) -> None:
    [command] = [command for command in COMMANDS if command.line == line]
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        process = place.start(command, JOBS_ADDRESS=f"http://127.0.0.1:{cluster.getsockname()[1]}")
        cluster.settimeout(STARTING_S)
        connection, _ = cluster.accept()
        with connection:
            _, said = interrupt(process, signal.SIGINT)
    check_words(said, signal.SIGINT, command.stands)
    assert place.processes() == []


@pytest.mark.parametrize("wait_s", [0.0, 2.0])
def test_a_cluster_that_is_starting_goes(place: Place, wait_s: float) -> None:
    process = place.start(Command("cluster up"), JOBS_ADDRESS="")
    written = place.folder / "state" / "cluster" / "cluster.json"
    deadline = time.monotonic() + STARTING_S
    while not written.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    temp_dir = Path(json.loads(written.read_text())["temp_dir"])
    time.sleep(wait_s)
    _, said = interrupt(process, signal.SIGTERM)
    check_words(said, signal.SIGTERM, r"No cluster was started\.")
    assert place.processes() == []
    assert not written.exists()
    assert not temp_dir.exists()


def test_while_the_program_starts(place: Place) -> None:
    """No traceback of an import; before this program has the word, Python ends by the signal itself."""
    for wait_s in (0.06, 0.1, 0.15, 0.2, 0.3):
        process = place.start(Command("list"))
        time.sleep(wait_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
        assert process.returncode in (143, -signal.SIGTERM)
        assert "Traceback" not in said


@pytest.mark.parametrize("line", ["results done", "list", "status open --json", "results done - --format parquet"])
def test_a_reader_that_goes_away(place: Place, line: str) -> None:
    process = place.start(Command(line))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(30) == 0, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_what_is_ignored_from_the_start_stays_ignored(place: Place) -> None:
    """As under `nohup`, and for what a script starts with `&`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    silence = Silence(0)
    place.proxy.faults = silence
    try:
        process = place.start(Command("list"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert silence.reached.wait(STARTING_S)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    interrupt(process, signal.SIGTERM)
    silence.over.set()


class Stalling:
    """A store on a bare socket: it takes every request and says so many bytes of an answer, then nothing more."""

    def __init__(self, said: bytes) -> None:
        self._said, self._server = said, socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            self._connections.append(connection)
            connection.sendall(self._said)


ANSWERS = {
    "nothing": b"",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "x"\r\n\r\n<?xml',
}
REQUESTS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a"),
    "tail": lambda store: store.get_tail("a", 10),
    "head": lambda store: store.head("a"),
    "list": lambda store: list(store.list("a")),
    "folders": lambda store: list(store.list_folders("a/")),
    "put": lambda store: store.put("a", b"x" * 5_000_000),
    "put new": lambda store: store.put_new("a", b"x", writer="w"),
    "delete": lambda store: store.delete("a"),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("request_", REQUESTS)
def test_no_request_waits_longer_than_its_patience(request_: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if answer == "half a body" and request_ not in ("get", "tail", "list", "folders"):
        pytest.skip("its answer has no body")
    s3.use(monkeypatch, Stalling(ANSWERS[answer]).endpoint)
    began = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        REQUESTS[request_](open_store("s3://bucket/root", patience_s=3.0))
    assert time.monotonic() - began < 3.0 + LOADED_S


def test_many_requests_at_once_wait_no_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for its turn is not begun any more, and what has begun is not waited for."""
    s3.use(monkeypatch, Stalling(b"").endpoint)
    store, began = open_store("s3://bucket/root", patience_s=3.0), time.monotonic()
    with pytest.raises(StoreError):
        in_threads(2, store.get, [f"key-{n}" for n in range(20)])
    assert time.monotonic() - began < 3.0 + LOADED_S


@pytest.mark.nightly
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_silent_store_holds_no_command_longer_than_a_minute(place: Place, command: Command) -> None:
    store = Stalling(b"")
    process = place.start(command, AWS_ENDPOINT_URL=store.endpoint)
    try:
        _, said = process.communicate(timeout=66)
    finally:
        process.kill()
        process.communicate()
    assert "does not answer" in said
    assert "Traceback" not in said
