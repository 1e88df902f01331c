"""The routes as OpenAI's own client sees them; nothing here reaches a cluster."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types import FileObject

from jobs.cli import main
from jobs.serve.app import Limits
from tests.unit.serve.conftest import TOKEN, Server, serving
from tests.unit.serve.test_requests import request


def upload(server: Server, *lines: object) -> FileObject:
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    return server.client().files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch")


def test_files_come_back_and_go(server: Server) -> None:
    client = server.client()
    file = upload(server, request("a"))
    assert (file.filename, file.purpose, file.status) == ("in.jsonl", "batch", "processed")
    assert client.files.retrieve(file.id) == file
    content = client.files.content(file.id).read()
    assert (len(content), json.loads(content)) == (file.bytes, request("a"))
    assert client.files.delete(file.id).deleted
    for gone in (lambda: client.files.retrieve(file.id), lambda: client.files.content(file.id)):
        with pytest.raises(openai.NotFoundError, match="No such file"):
            gone()


def test_lists_have_pages(server: Server) -> None:
    client = server.client()
    ids = [upload(server, request()).id for _ in range(5)]
    assert [file.id for file in client.files.list()] == ids[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == ids, "the client follows the pages"
    page = client.files.list(limit=2)
    assert (page.has_more, [file.id for file in page.data]) == (True, ids[:2:-1])
    assert list(client.files.list(purpose="batch_output")) == []
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.files.list(limit=0)


def test_a_batch_that_is_not_valid_fails_with_its_lines(server: Server) -> None:
    client = server.client()
    file = upload(server, request("a"), b"{broken", request("a"), request("c", model="gpt-9"))
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"k": "v"}
    )
    deadline = time.monotonic() + 30
    while batch.status == "validating":
        assert time.monotonic() < deadline
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.metadata, batch.output_file_id) == ("failed", {"k": "v"}, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "model_not_found"),
    ]
    assert [each.id for each in client.batches.list()] == [batch.id]
    with pytest.raises(openai.ConflictError, match="is failed"):
        client.batches.cancel(batch.id)


def test_an_idempotency_key_gives_the_same_batch(server: Server) -> None:
    client, file = server.client(), upload(server, b"{broken")
    headers = {"Idempotency-Key": "one"}

    def create(window: str) -> str:
        return client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window=window,  # type: ignore[arg-type]
            extra_headers=headers,
        ).id

    first = create("24h")
    assert create("24h") == first
    with pytest.raises(openai.ConflictError, match="another request"):
        create("48h")
    assert [batch.id for batch in client.batches.list()] == [first]


def test_bad_requests_name_the_field(server: Server) -> None:
    client, file = server.client(), upload(server, request())

    def create(**changes: object) -> None:
        body = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h", **changes}
        client.post("/batches", body=body, cast_to=object)

    for changes, words in (
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1y"}, "completion_window"),
        ({"metadata": {"k": "x" * 600}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            create(**changes)
    for surrogate in (b'{"metadata": {"k": "\\ud800"}}', b'{"\\ud800": 1}', b'{"input_file_id": "\\ud800"}'):
        found = httpx.post(
            f"{server.url}/v1/batches",
            content=surrogate,
            headers={"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
        )
        assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_value")
    with pytest.raises(openai.NotFoundError, match="no such uploaded file"):
        create(input_file_id="file-123")
    with pytest.raises(openai.NotFoundError, match="No such batch"):
        client.batches.retrieve("batch_123")
    with pytest.raises(openai.NotFoundError, match="No such model"):
        client.models.retrieve("gpt-9")
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"{}", purpose="fine-tune")


def test_only_the_token_opens(server: Server) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
    for token in ("wrong", TOKEN[:-1], TOKEN + "x"):
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            server.client(token).files.list()
    bare = httpx.get(f"{server.url}/v1/files")
    assert (bare.status_code, bare.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.get(f"{server.url}/v1/files", headers={"authorization": "Bearer é".encode()}).status_code == 401


def test_unknown_paths_and_methods_answer_in_the_same_form(server: Server) -> None:
    found = httpx.get(f"{server.url}/v1/embeddings")
    assert (found.status_code, found.json()["error"]["type"]) == (404, "invalid_request_error")
    found = httpx.put(f"{server.url}/v1/files")
    assert (found.status_code, found.headers["allow"]) == (405, "GET, POST")


def test_an_unknown_address_is_told_which_there_are(server: Server) -> None:
    for path in ("/", "/docs", "/v1/files/", "/v1/chat/completions", "/files", "/v1/files/..%2F..%2Fx"):
        found = httpx.post(f"{server.url}{path}", json={}, headers={"host": "evil.example"})
        error = found.json()["error"]
        assert (found.status_code, error["code"], found.headers.get("location")) == (404, "unknown_url", None)
        assert "POST /v1/batches" in error["message"]
        assert "evil" not in found.text


def test_files_expire_when_they_are_asked_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = server.client()

    def create(**policy: object) -> FileObject:
        return client.files.create(file=("f.jsonl", b"{}"), purpose="batch", expires_after=policy)  # type: ignore[arg-type]

    file = create(anchor="created_at", seconds=3600)
    assert file.expires_at == file.created_at + 3600
    for policy, param in (
        ({"anchor": "created_at"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 3599}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 2_592_001}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "soon"}, "expires_after.seconds"),
        ({"anchor": "last_active_at", "seconds": 3600}, "expires_after.anchor"),
        ({"anchor": "created_at", "seconds": 3600, "x": 1}, "expires_after.x"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            create(**policy)
        assert refused.value.param == param
    later = file.created_at + 3600
    monkeypatch.setattr("jobs.serve.files.time.time", lambda: later)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert list(client.files.list()) == []


@pytest.mark.parametrize("name", ["é \u65e5.jsonl", 'a"b.jsonl', "a\nb", "50%20.jsonl", "x" * 255])
def test_names_of_files_come_back(server: Server, name: str) -> None:
    assert server.client().files.create(file=(name, b"{}"), purpose="batch").filename == name


def test_a_name_that_is_too_long_and_a_field_given_twice_are_refused(server: Server) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}

    def refused(files: object, data: object) -> dict[str, str]:
        found = httpx.post(f"{server.url}/v1/files", headers=headers, files=files, data=data)  # type: ignore[arg-type]
        assert found.status_code == 400
        error: dict[str, str] = found.json()["error"]
        return error

    purpose = {"purpose": "batch"}
    assert refused({"file": ("x" * 256, b"{}")}, purpose)["param"] == "file"
    assert refused([("file", b"{}"), ("file", b"{}")], purpose)["param"] == "file"
    assert refused({"file": b"{}"}, {"purpose": ["batch", "batch"]})["param"] == "purpose"
    assert refused(None, {"purpose": "batch", "file": "text"})["param"] == "file"


def test_limits(root: Path) -> None:
    with serving(root, limits=Limits(file_bytes=100_000, requests=10)) as server:
        assert upload(server, *(request(str(n)) for n in range(10))).bytes
        with pytest.raises(openai.BadRequestError, match="more than 10 requests"):
            upload(server, *(request(str(n)) for n in range(11)))
        with pytest.raises(openai.BadRequestError, match="no lines"):
            upload(server, b"", b"  ")
        assert len(list(server.store.list("_files/"))) == 2, "one file and its record"
        with pytest.raises(openai.APIStatusError) as refused:
            upload(server, b"x" * 120_000)
        assert refused.value.status_code == 413

        def endless() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
            for _ in range(100):
                yield b"x" * 10_000

        # A body without a length: it is counted as it comes.
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "multipart/form-data; boundary=b"}
        found = httpx.post(f"{server.url}/v1/files", content=endless(), headers=headers)
        assert (found.status_code, found.json()["error"]["type"]) == (413, "invalid_request_error")
        assert list(server.client().files.list(limit=1, order="asc"))


def test_the_store_being_away_is_503(root: Path) -> None:
    with serving(root) as server:
        upload(server, request())
        root.rename(root.with_name("elsewhere"))
        root.write_text("in the way")
        with pytest.raises(openai.InternalServerError, match="Cannot use") as away:
            server.client().files.list()
        assert away.value.status_code == 503


def test_the_command_refuses_to_be_open_to_the_world(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--engine", "fake", "--port", "0"]
    assert main([*arguments, "--host", "0.0.0.0", "--no-auth"]) == 2
    assert "needs a token" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*arguments[:-1], str(taken.getsockname()[1])]) == 2
    assert "Give another --port" in capsys.readouterr().err


def test_a_missing_package_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "--engine", "fake"]) == 1
    assert "pip install 'nightbatch[serve]'" in capsys.readouterr().err
