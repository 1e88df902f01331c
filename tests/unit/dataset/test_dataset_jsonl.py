"""JSON lines as tables: types, malformed lines, OpenAI batch requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset import resolve_columns, slices
from jobs.dataset.inspection import inspect
from jobs.dataset.reading import read_slice
from jobs.errors import InvalidInput
from schemas.spec import InputSpec


def write(path: Path, *lines: object) -> str:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return str(path)


def rows(uri: str) -> list[dict[str, Any]]:
    return [row for piece in slices(inspect(uri)) for batch in read_slice(piece) for row in batch.to_pylist()]


def test_types_come_from_the_values(tmp_path: Path) -> None:
    uri = write(
        tmp_path / "x.jsonl",
        {"prompt": "a", "n": 1, "x": 1, "b": True, "m": [{"role": "user"}], "mixed": 1, "big": 2**70, "z": None},
        {"prompt": "é", "n": None, "x": 1.5, "b": False, "m": [], "mixed": "t", "big": 1},
    )
    types = {field.name: str(field.type) for field in inspect(uri).schema}
    assert types == {
        "prompt": "string", "n": "int64", "x": "double", "b": "bool", "m": "string", "mixed": "string",
        "big": "string", "z": "string",
    }  # fmt: skip
    assert rows(uri) == [
        {
            "prompt": "a",
            "n": 1,
            "x": 1.0,
            "b": True,
            "m": '[{"role": "user"}]',
            "mixed": "1",
            "big": str(2**70),
            "z": None,
        },
        {"prompt": "é", "n": None, "x": 1.5, "b": False, "m": "[]", "mixed": "t", "big": "1", "z": None},
    ]


def test_columns_of_several_files_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"prompt": "a", "n": 1})
    write(tmp_path / "b.jsonl", {"prompt": "b", "n": 0.5, "k": "v"})
    assert rows(str(tmp_path)) == [{"prompt": "a", "n": 1.0, "k": None}, {"prompt": "b", "n": 0.5, "k": "v"}]


@pytest.mark.parametrize("bad", [b"{broken", b"\xff\xfe", b"[1]", b"7", b"[" * 100_000, b'{"prompt": "cut'])
def test_a_bad_line_costs_one_row(tmp_path: Path, bad: bytes) -> None:
    uri = write(tmp_path / "x.jsonl", {"prompt": "a"}, bad, {"prompt": "c"})
    assert [row["prompt"] for row in rows(uri)] == ["a", None, "c"]


def test_an_endless_line_costs_one_row_and_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dataset.jsonl._MAX_LINE_BYTES", 1000)
    uri = write(tmp_path / "x.jsonl", {"prompt": "a"}, {"prompt": "x" * 5000}, {"prompt": "c"}, {"prompt": "d" * 990})
    assert [row["prompt"] for row in rows(uri)] == ["a", None, "c", None]


def test_a_lone_surrogate_is_invalid_text_of_one_row(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.jsonl", b'{"prompt": "\\ud800"}', {"prompt": "ok"})
    [batch] = [batch for piece in slices(inspect(uri)) for batch in read_slice(piece)]
    assert batch["prompt"][1].as_py() == "ok"
    with pytest.raises(UnicodeDecodeError):
        batch["prompt"][0].as_py()


def test_a_file_without_any_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x\.jsonl is not JSON lines"):
        inspect(write(tmp_path / "x.jsonl", b"a,b", b"1,2"))
    with pytest.raises(InvalidInput, match="no rows"):
        inspect(write(tmp_path / "y.jsonl", b"", b"  "))
    with pytest.raises(InvalidInput, match="more than 1000 different names"):
        inspect(write(tmp_path / "z.jsonl", *({f"k{i}": 1} for i in range(1200))))


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"prompt": "a"}')) == [{"prompt": "a"}]


def test_lists_are_no_prompts_but_can_be_messages(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.jsonl", {"prompt": [1, 2], "messages": [{"role": "user", "content": "hi"}]})
    schema = inspect(uri).schema
    assert resolve_columns(schema, InputSpec(uri=uri)).kind == "messages"
    with pytest.raises(InvalidInput, match="holds lists or objects"):
        resolve_columns(schema, InputSpec(uri=uri, prompt_column="prompt"))


def test_openai_batch_requests(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hé"}]
    body = {
        "model": "m", "messages": messages, "max_completion_tokens": 7, "stop": "x", "temperature": 0.5,
        "logprobs": True, "top_logprobs": 3, "stream": False, "user": "u", "seed": None,
    }  # fmt: skip
    uri = write(
        tmp_path / "x.jsonl",
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages}},
    )
    columns = resolve_columns(inspect(uri).schema, InputSpec(uri=uri))
    assert (columns.kind, columns.custom_id, columns.sampling_params) == ("messages", "custom_id", "sampling_params")
    first, second = rows(uri)
    assert first["custom_id"] == "a"
    assert json.loads(first["messages"]) == messages
    assert json.loads(first["sampling_params"]) == {"max_tokens": 7, "stop": ["x"], "temperature": 0.5, "logprobs": 3}
    assert second["sampling_params"] is None


def test_openai_completion_requests(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.jsonl", {"custom_id": "a", "body": {"prompt": "p", "max_tokens": 3, "logprobs": 2}})
    assert rows(uri) == [{"custom_id": "a", "sampling_params": '{"max_tokens": 3, "logprobs": 2}', "prompt": "p"}]
    assert inspect(uri).schema.field("prompt").type == pa.string()
