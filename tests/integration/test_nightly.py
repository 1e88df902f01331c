"""A real night: `jobs schedule serve` fires, the job runs on the cluster over S3, a webhook and readers hear of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from schemas.schedule_keys import latest_key
from tests.support.harness import COMMAND, User, check_invariants, write_prompts
from tests.support.s3 import S3Server

SECRET = "a-secret-that-must-not-be-stored"


@dataclass
class Receiver:
    """What came to a webhook. The first delivery is refused."""

    url: str = ""
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.calls]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(503 if len(receiver.calls) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(user: User, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            [COMMAND, "schedule", "serve", *arguments], env=user.environment(), stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def until(condition: Callable[[], Any], what: str, log: Path, timeout_s: float = 240) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} after {timeout_s} s:\n{log.read_text()}"
        time.sleep(0.5)
    return found


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """As https://www.standardwebhooks.com has it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{digest}" and abs(time.time() - int(headers["webhook-timestamp"])) < 300


def test_one_real_night(s3_user: User, s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    user = User(root=s3_user.root, env={**s3_user.env, "HOOK_SECRET": SECRET})
    log, told = tmp_path / "serve.log", tmp_path / "events.json"
    rows = write_prompts(tmp_path / "rows.parquet", [f"prompt {n}" for n in range(200)])
    with receiving() as receiver:
        user.run(
            *("schedule", "create", "night", f"s3://{s3_bucket}/in/{{{{ date }}}}/", "--engine", "fake"),
            *("--cron", "* * * * *", "--overlap", "queue", "--deadline", "1h", "--max-empty-rate", "0"),
            *("--set", "engine.fake.token_s=0.02", "--max-num-seqs", "8"),
            *("--export", f"s3://{s3_bucket}/out/{{{{ logical_date }}}}.jsonl"),
            *("--webhook", receiver.url, "--webhook-secret-env", "HOOK_SECRET"),
        )
        command = ("--notify-command", f"tee -a {told}")
        with serving(user, log, *command) as first, serving(user, log, *command):
            run = until(lambda: user.json("schedule", "show", "night")["runs"], "run", log)[-1]
            user.run("schedule", "suspend", "night")
            date, job_id = run["logical_date"], run["job_id"]
            assert job_id == f"night-{date}"
            # The night waits for its input; then one of the two schedulers is killed while the job is under way.
            assert user.ledger(job_id).created_at() is None
            assert user.json("schedule", "list")[0]["outcome"] == "not done"
            s3_server.client().upload_file(str(rows), s3_bucket, f"in/{date[:10]}/rows.parquet")
            until(lambda: user.ledger(job_id).created_at(), "job", log)
            os.kill(first.pid, signal.SIGKILL)
            first.wait(20)

            def ended() -> list[dict[str, Any]]:
                return [event for event in receiver.events()[1:] if event["logical_date"] == date]

            event = until(ended, "event", log)[0]
            until(lambda: told.exists() and told.read_text(), "event for the command", log)

    check_invariants(user.ledger(job_id), 200)
    assert (event["type"], event["job_id"], event["num_rows"], event["num_error_rows"]) == ("succeeded", job_id, 200, 0)
    assert event["id"] == f"night/{date}/1/succeeded"
    # Refused once, delivered again under the same id; all of it signed.
    assert receiver.events()[0]["id"] == event["id"]
    assert all(is_signed(headers, body) for headers, body in receiver.calls)
    assert json.loads(told.read_text().split("}\n{")[0].rstrip("}\n") + "}")["id"] == event["id"]

    assert user.run("schedule", "latest", "night", "-q").stdout.strip() == job_id
    shown = next(each for each in user.json("schedule", "show", "night")["runs"] if each["logical_date"] == date)
    assert (shown["outcome"], shown["rows"]) == ("succeeded", 200)
    exported = s3_server.client().get_object(Bucket=s3_bucket, Key=f"out/{date}.jsonl")["Body"].read()
    assert [json.loads(line)["row_id"] for line in exported.splitlines()] == list(range(200))
    # One driver, whoever submitted; and no secret anywhere.
    store = user.ledger(job_id).store
    assert json.loads(store.get(latest_key("night")) or b"")["job_id"] == job_id
    assert not any(SECRET.encode() in (store.get(info.key) or b"") for info in store.list("_schedules/"))
    assert SECRET not in log.read_text()


@pytest.mark.nightly
def test_a_night_that_crosses_a_gate_is_not_published_and_can_be_run_again(user: User, tmp_path: Path) -> None:
    write_prompts(tmp_path / "rows.parquet", ["a", "b", "c"])
    create = ("schedule", "create", "gated", str(tmp_path / "rows.parquet"), "--engine", "fake", "--cron", "0 2 * * *")
    user.run(*create, "--max-tokens", "4", "--max-length-finish-rate", "0.5")
    crossed = user.json("schedule", "run", "gated", "--wait", code=3)
    assert (crossed["outcome"], crossed["job_id"]) == ("GATE_FAILED", f"gated-{crossed['logical_date']}")
    assert "3 of 3 answers were cut at their token limit (100 %" in crossed["reason"]
    assert user.run("schedule", "latest", "gated", code=1).stdout == ""
    assert user.run("results", crossed["job_id"]).stdout.count("\n") == 3

    # Mended, the same date gets another round and job; a third call finds it done.
    user.run(*create, "--replace")
    date = ("--date", crossed["logical_date"])
    again = user.json("schedule", "run", "gated", "--wait", *date)
    assert (again["outcome"], again["round"], again["job_id"]) == ("succeeded", 2, f"{crossed['job_id']}-r2")
    before = {info.key for info in user.ledger(crossed["job_id"]).store.list("")}
    assert user.json("schedule", "run", "gated", *date)["job_id"] == again["job_id"]
    assert {info.key for info in user.ledger(crossed["job_id"]).store.list("")} == before
    assert user.run("schedule", "latest", "gated", "-q").stdout.strip() == again["job_id"]
    (listed,) = user.json("schedule", "list")
    assert (listed["outcome"], listed["published"]) == ("succeeded", crossed["logical_date"])


def test_a_repaired_night_is_published_in_place_of_the_old_one_and_a_failed_repair_is_not(
    user: User, tmp_path: Path
) -> None:
    write_prompts(tmp_path / "rows.parquet", [f"prompt {n}" for n in range(20)])
    out = tmp_path / "out.jsonl"
    user.run(
        *("schedule", "create", "mended", str(tmp_path / "rows.parquet"), "--engine", "fake", "--cron", "0 2 * * *"),
        *("--max-tokens", "4", "--export", str(out)),
    )
    first = user.json("schedule", "run", "mended", "--wait")
    date, job_id = ("--date", first["logical_date"]), first["job_id"]
    cut = [json.loads(line)["generated_text"] for line in out.read_text().splitlines()]

    where = ("--where", "finish_reason=length")
    said = user.run("retry", job_id, *where, "--max-tokens", "64", "--wait").stderr
    assert f"It is round 2 of {first['logical_date']} of schedule mended" in said
    assert "is not done" in user.run("retry", job_id, *where, "--max-tokens", "9", code=2).stderr
    assert user.run("schedule", "latest", "mended", "-q").stdout.strip() == job_id, "nobody has published it yet"
    again = user.json("schedule", "run", "mended", "--wait", *date)
    assert (again["outcome"], again["round"], again["job_id"]) == ("succeeded", 2, f"{job_id}-r2")
    assert user.run("schedule", "latest", "mended", "-q").stdout.strip() == again["job_id"]
    whole = [json.loads(line)["generated_text"] for line in out.read_text().splitlines()]
    assert len(whole) == 20
    assert all(new.startswith(old) and len(new) > len(old) for old, new in zip(cut, whole, strict=True))

    worse = ("--where", "status=ok", "--max-tokens", "2", "--max-length-finish-rate", "0", "--wait")
    user.run("retry", again["job_id"], *worse, code=3)
    assert user.json("schedule", "run", "mended", "--wait", *date, code=3)["job_id"] == f"{job_id}-r3"
    assert user.run("schedule", "latest", "mended", "-q").stdout.strip() == again["job_id"]
    assert [json.loads(line)["generated_text"] for line in out.read_text().splitlines()] == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "x", "/d", "--engine", "fake", "--cron", "0 2 * *"), "4 fields"),
        (("create", "x", "/d", "--engine", "fake", "--cron", "0 2 * * *", "--overlap", "often"), "skip, queue"),
        (
            ("create", "x", "/d", "--engine", "fake", "--cron", "0 2 * * *", "--export", "out.txt"),
            "a directory or a table",
        ),
        (("create", "x", "/{{ now }}", "--engine", "fake", "--cron", "0 2 * * *"), "'now' is undefined"),
        (("show", "nothing"), "no schedule 'nothing'"),
        (("run", "nothing"), "no schedule 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    ended = User(root=str(tmp_path)).run("schedule", *arguments, code=2)
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
