"""`jobs serve` as OpenAI's own client uses it, unmodified, with a real cluster behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch, Completion, ErrorObject
from openai.types.chat import ChatCompletion

from schemas.batches import job_id_of
from tests.support.bounds import LOADED_S
from tests.support.harness import COMMAND, User, check_invariants, driver_pid, kill

pytestmark = pytest.mark.nightly

ENDED = {"completed", "failed", "expired", "cancelled"}
CHAT = "/v1/chat/completions"
SLOW = (
    *("--set", "engine.fake.token_s=0.05", "--set", "engine.max_num_seqs=4"),
    *("--set", "shards.min_tokens=1", "--set", "shards.target_count=20"),
)


@dataclass
class Server:
    """A server process and OpenAI's client of it."""

    process: subprocess.Popen[str]
    client: OpenAI

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


@contextmanager
def serving(user: User, folder: Path, *arguments: str, model: str = "demo") -> Iterator[Server]:
    """`jobs serve` on a free port; its token file is in `folder`, so that a second server has the same token."""
    command = [COMMAND, "serve", "--model-name", model, "--port", "0", "--json", "--token-file", str(folder / "token")]
    with (folder / "serve.log").open("a") as log, ExitStack() as stack:
        process = subprocess.Popen(
            [*command, "--engine", "fake", *arguments],
            env=user.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        stack.callback(process.stdout.close)  # type: ignore[union-attr]
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        assert process.stdout is not None
        printed = ""
        while "}" not in printed:
            line = process.stdout.readline()
            assert line, (folder / "serve.log").read_text()
            printed += line
        url = json.loads(printed)["url"]
        client = OpenAI(base_url=url, api_key=(folder / "token").read_text().strip(), timeout=30)
        yield Server(process, stack.enter_context(client))


def chat(custom_id: str, text: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return request(custom_id, CHAT, messages=messages, **body)


def request(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "demo", **body}}


def start(client: OpenAI, folder: Path, requests: list[dict[str, Any]], endpoint: Any = CHAT) -> Batch:
    path = folder / f"{requests[0]['custom_id']}.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in requests))
    file = client.files.create(file=path, purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def wait(client: OpenAI, batch: Batch, until: Callable[[Batch], bool] = lambda batch: batch.status in ENDED) -> Batch:
    deadline = time.monotonic() + 240
    while not until(batch):
        assert batch.status not in ENDED, batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    return batch


def lines(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_from_upload_to_answers(s3_user: User, tmp_path: Path) -> None:
    with serving(s3_user, tmp_path, "--replicas", "2") as server:
        client = server.client
        requests = [chat(f"chat-{n}", f"question {n}") for n in range(40)]
        requests[3] = chat("chat-3", "question 3", temperature=-1)
        requests[4] = chat("chat-4", "question 4", logprobs=True, top_logprobs=2, max_completion_tokens=5)
        requests[5] = chat("chat-5", "question 5", frobnicate=True)
        batch = start(client, tmp_path, requests)
        assert batch.status == "validating"
        plain = [request(f"plain-{n}", "/v1/completions", prompt=f"Once {n}", n=2, seed=n) for n in range(6)]
        other = start(client, tmp_path, plain, "/v1/completions")

        batch, other = wait(client, batch), wait(client, other)
        counts = batch.request_counts
        assert counts is not None
        assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 40, 38, 2)
        assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.completed_at or 0)
        assert batch.model == "demo"

        usage = batch.usage
        assert usage is not None
        answers = [line["response"]["body"]["usage"] for line in lines(client, batch.output_file_id)]
        assert usage.input_tokens == sum(each["prompt_tokens"] for each in answers) > 0
        assert usage.output_tokens == sum(each["completion_tokens"] for each in answers) > 0
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens

        answered, refused = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
        assert [line["custom_id"] for line in answered] == [f"chat-{n}" for n in range(40) if n not in (3, 5)]
        for line in answered:
            body = ChatCompletion.model_validate(line["response"]["body"], strict=True)
            assert (body.choices[0].message.content or "").startswith("fake-")
            assert (body.choices[0].logprobs is not None) == (line["custom_id"] == "chat-4")
        assert [line["custom_id"] for line in refused] == ["chat-3", "chat-5"]
        assert [line["response"]["status_code"] for line in refused] == [400, 400]
        assert "frobnicate" in refused[1]["response"]["body"]["error"]["message"]

        assert (other.status, other.error_file_id) == ("completed", None)
        for line in lines(client, other.output_file_id):
            completion = Completion.model_validate(line["response"]["body"], strict=True)
            assert len({choice.text for choice in completion.choices}) == 2

        assert [each.id for each in client.batches.list(limit=1)] == [other.id, batch.id], "over two pages"
        assert {file.purpose for file in client.files.list()} == {"batch", "batch_output"}

        # A batch is a job, and the command line gives the same lines, in one file.
        check_invariants(s3_user.ledger(job_id_of(batch.id)), 40)
        exported = s3_user.run("results", job_id_of(batch.id), "-", "--format", "openai").stdout.splitlines()
        ids = {line["custom_id"]: line["id"] for line in (*answered, *refused)}
        assert {line["custom_id"]: line["id"] for line in map(json.loads, exported)} == ids


def test_a_wrong_request_costs_itself_and_the_client_reads_every_line(user: User, tmp_path: Path) -> None:
    schema = {"name": "s", "schema": {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("tools", {"tools": 5}),
        ("response_format", {"response_format": True}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": schema}}),
        ("max_tokens", {"max_tokens": "5"}),
        ("max_tokens", {"max_tokens": 1, "max_completion_tokens": 2}),
        ("n", {"n": 2, "logprobs": True}),
        ("prompt", {"prompt": "beside the messages"}),
        ("seed", {"seed": True}),
    ]
    chats = [chat(f"w{n}", "hi", **body) for n, (_, body) in enumerate(wrong)]
    chats += [chat("good", "hi"), chat("same", "hi", n=3, temperature=0), chat("several", "hi", n=2)]
    chats.append(chat("formless", "formless", response_format={"type": "json_object"}))
    plain = [{"prompt": "a", "logprobs": 0}, {"prompt": "a"}, {"prompt": [104, 105]}, {"prompt": "a", "logprobs": 2}]
    with serving(user, tmp_path, "--set", "engine.fake.formless_marker=formless") as server:
        client = server.client
        batch = start(client, tmp_path, chats)
        requests = [request(f"p{n}", "/v1/completions", **body) for n, body in enumerate(plain)]
        other = start(client, tmp_path, requests, "/v1/completions")
        batch, other = wait(client, batch), wait(client, other)
        assert (batch.status, other.status, other.error_file_id) == ("completed", "completed", None)

        answers = {line["custom_id"]: line["response"]["body"] for line in lines(client, batch.output_file_id)}
        found = {each: ChatCompletion.model_validate(body, strict=True).choices for each, body in answers.items()}
        assert set(found) == {"good", "same", "several"}
        assert [len({choice.message.content for choice in found[each]}) for each in ("same", "several")] == [1, 2]

        refused = {line["custom_id"]: line["response"] for line in lines(client, batch.error_file_id)}
        errors = {each: ErrorObject.model_validate(of["body"]["error"], strict=True) for each, of in refused.items()}
        assert [errors.pop(f"w{n}").param for n in range(len(wrong))] == [field for field, _ in wrong]
        assert {each: (refused[each]["status_code"], error.code) for each, error in errors.items()} == {
            "formless": (500, "invalid_form")
        }

        texts = [
            Completion.model_validate(line["response"]["body"], strict=True)
            for line in lines(client, other.output_file_id)
        ]
        assert [body.choices[0].logprobs is not None for body in texts] == [True, False, False, True]


def test_a_killed_server_loses_nothing_and_two_do_no_harm(user: User, tmp_path: Path) -> None:
    requests = [chat(f"kill-{n}", f"question {n}") for n in range(60)]
    with serving(user, tmp_path, *SLOW) as first:
        # Killed before it can have started the job, and again while the job runs.
        batch = start(first.client, tmp_path, requests)
        first.kill()
    with serving(user, tmp_path, *SLOW) as second:
        running = wait(second.client, batch, lambda b: b.request_counts is not None and b.request_counts.completed > 0)
        assert running.status == "in_progress"
        second.kill()
    with serving(user, tmp_path, *SLOW) as third, serving(user, tmp_path) as fourth:
        done = wait(third.client, batch)
        assert done.status == "completed"
        assert fourth.client.batches.retrieve(batch.id).status == "completed"
        answered = lines(fourth.client, done.output_file_id)
    assert [line["custom_id"] for line in answered] == [f"kill-{n}" for n in range(60)]
    assert len(list(user.ledger("x").store.list_folders("_files/"))) == 2, "one input and one output"


def test_a_dead_driver_is_followed_by_another(user: User, tmp_path: Path) -> None:
    with serving(user, tmp_path, *SLOW) as server:
        batch = start(server.client, tmp_path, [chat(f"driver-{n}", f"question {n}") for n in range(60)])
        wait(server.client, batch, lambda b: b.request_counts is not None and b.request_counts.completed > 0)
        kill(driver_pid(job_id_of(batch.id)))  # the service may have started the next one before anybody looks
        done = wait(server.client, batch)
        assert done.status == "completed"
        assert len(lines(server.client, done.output_file_id)) == 60


def test_cancel_keeps_what_is_answered(user: User, tmp_path: Path) -> None:
    with serving(user, tmp_path, *SLOW) as server:
        client = server.client
        batch = start(client, tmp_path, [chat(f"cancel-{n}", f"question {n}") for n in range(200)])
        ledger = user.ledger(job_id_of(batch.id))
        wait(client, batch, lambda _: bool(ledger.committed()))
        assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
        batch = wait(client, batch)
        assert batch.status == "cancelled"
        answered, unanswered = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
        ids = [int(line["custom_id"].removeprefix("cancel-")) for line in (*answered, *unanswered)]
        assert sorted(ids) == list(range(200))
        assert answered
        assert {line["error"]["code"] for line in unanswered} == {"batch_cancelled"}


def test_servers_of_different_models_leave_each_other_alone(user: User, tmp_path: Path) -> None:
    def ask(server: Server, model: str) -> Batch:
        return start(server.client, tmp_path, [chat(f"{model}-{n}", f"question {n}", model=model) for n in range(20)])

    with serving(user, tmp_path, model="one") as one, serving(user, tmp_path, model="two") as two:
        batches = [(one, "one", ask(one, "one")), (two, "two", ask(two, "two")), (one, "one", ask(one, "one"))]
        mistaken = ask(two, "one")
        for server, model, batch in batches:
            done = wait(server.client, batch)
            assert (done.status, done.model) == ("completed", model)
            bodies = [line["response"]["body"] for line in lines(server.client, done.output_file_id)]
            assert {body["model"] for body in bodies} == {model}
            assert len(bodies) == 20
        failed = wait(two.client, mistaken)
        assert failed.errors is not None
        assert failed.errors.data is not None
        assert {error.code for error in failed.errors.data} == {"model_not_found"}


def test_batches_that_are_cancelled_hold_up_no_other(user: User, tmp_path: Path) -> None:
    with serving(user, tmp_path, *SLOW) as server:
        client = server.client
        wrong = [chat("a", "hi", model="unknown")]
        running = [start(client, tmp_path, [chat(f"c{b}-{n}", "hi") for n in range(100)]) for b in range(8)]
        for batch in running:
            wait(client, batch, lambda b: b.status == "in_progress")
            client.batches.cancel(batch.id)
        began = time.monotonic()
        assert wait(client, start(client, tmp_path, wrong)).status == "failed"
        assert time.monotonic() - began < 5 + LOADED_S, "it did not wait for the drivers of the others"
        assert {wait(client, batch).status for batch in running} == {"cancelled"}


@pytest.mark.parametrize("remote", [False, True])
def test_a_job_that_cannot_start_fails_the_batch_and_says_why(user: User, tmp_path: Path, remote: bool) -> None:
    """The model is checked where the batch is started, or, if it is not there, by the driver."""
    missing = ["--set", "model.path=/no/such/model"]
    if remote:
        cluster = user.json("cluster", "status")
        missing += ["--address", cluster["dashboard"], "--token-path", cluster["token_file"]]
    with serving(user, tmp_path, *missing) as server:
        batch = wait(server.client, start(server.client, tmp_path, [chat("a", "hi")]))
        assert batch.status == "failed"
        assert batch.errors is not None
        assert batch.errors.data is not None
        message = batch.errors.data[0].message
        assert message
        assert "/no/such" not in message
        assert "jobs " not in message
        [line] = lines(server.client, batch.error_file_id)
        assert line["error"]["code"] == "batch_failed"
