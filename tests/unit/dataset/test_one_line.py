"""One line never costs another: whatever a field of a JSON line holds, the other lines are answered."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import inspect, read_slice, resolve_columns, slices
from jobs.dataset.inspection import inspect as look_at
from jobs.dataset.reading import read_slice as read_here
from jobs.errors import InvalidInput
from jobs.models.encoding import BytesEncoder
from jobs.rows.prepare import RowPreparer
from jobs.serve.requests import check_requests, job_spec
from schemas.batches import Endpoint
from schemas.sampling import Sampling
from schemas.spec import JobSpec
from tests.support.quick import examples

CHAT: Endpoint = "/v1/chat/completions"
PLAIN: Endpoint = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
OF_OPENAI = (
    *(
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
    ),
    *("messages", "metadata", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt"),
    *("reasoning_effort", "response_format", "seed", "service_tier", "stop", "store", "stream", "stream_options"),
    *("temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "best_of", "echo", "suffix", "input"),
)
OF_ROWS = (
    *("messages", "prompt", "custom_id", "sampling_params", "max_tokens", "structured_outputs", "response_format"),
    *("tools", "choices", "prompt_token_ids", "body", "url", "method", "other"),
)
CHAT_JOB = JobSpec.model_validate(
    {"name": "n", "input": {"uri": "/x"}, "model": {"path": "builtin:bytes"}, "engine": {"name": "fake"}}
)


def prepared(spec: JobSpec, lines: list[Any]) -> list[dict[str, Any]]:
    """The staged rows of a file with these lines."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(
            b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        )
        dataset = look_at(str(path))
        spec = spec.evolve(input=spec.input.evolve(uri=str(path)))
        columns = resolve_columns(dataset.schema, spec.input)
        preparer = RowPreparer(spec, columns, BytesEncoder(), 1000)
        batches = [batch for piece in slices(dataset) for batch in read_here(piece, list(columns.needed))]
        return [row for batch in batches for row in preparer.prepare(batch, 0).to_pylist()]


def of_batch(endpoint: Endpoint, bodies: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The staged rows of a batch of these bodies; None where it is refused before it is accepted."""
    lines = [
        {"custom_id": f"c{n}", "method": "POST", "url": endpoint, "body": {"model": "m", **body}}
        for n, body in enumerate(bodies)
    ]
    checked = check_requests(((n, json.dumps(line).encode()) for n, line in enumerate(lines, 1)), endpoint, "m")
    return None if checked.errors else prepared(job_spec(CHAT_JOB, "b", "/x", endpoint, checked), lines)


def meaning(row: dict[str, Any]) -> tuple[Any, ...]:
    """What decides a row's answer."""
    sampling = None if row["sampling"] is None else Sampling.from_json(row["sampling"].encode())
    return row["token_ids"], sampling, row["error_code"]


@pytest.mark.parametrize("endpoint", [CHAT, PLAIN])
@given(field=st.sampled_from(OF_OPENAI), value=VALUES)
@settings(max_examples=examples(300), deadline=None)
def test_a_request_costs_no_other_request_and_changes_none(endpoint: Endpoint, field: str, value: Any) -> None:
    good = {"messages": MESSAGES} if endpoint == CHAT else {"prompt": "hi"}
    alone = of_batch(endpoint, [good])
    assert alone is not None
    for bodies in ([good, {**good, field: value}, good], [{**good, field: value}, good]):
        rows = of_batch(endpoint, bodies)
        if rows is None:
            assert field in good, "only what makes a line a request is asked for before a batch is accepted"
            return
        assert [row["custom_id"] for row in rows] == [f"c{n}" for n in range(len(bodies))]
        assert meaning(rows[-1]) == meaning(alone[0])
        assert all(row["error_code"] is None for row, body in zip(rows, bodies, strict=True) if body is good)


@given(field=st.sampled_from(OF_ROWS), value=VALUES, prompt=st.booleans(), chat=st.booleans())
@settings(max_examples=examples(400), deadline=None)
def test_a_plain_line_costs_no_other_line(field: str, value: Any, prompt: bool, chat: bool) -> None:
    good: dict[str, Any] = {"prompt": "hi"} if prompt or not chat else {"messages": MESSAGES}
    spec = CHAT_JOB.evolve(input=CHAT_JOB.input.evolve(chat=chat))
    rows = prepared(spec, [good, {**good, field: value}, good])
    assert [row["error_code"] for row in (rows[0], rows[2])] == [None, None]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"tools": 5}, "INVALID_MESSAGES", "tools"),
        ({"response_format": True}, "INVALID_SAMPLING", "response_format"),
        ({"max_tokens": True}, "INVALID_SAMPLING", "max_tokens"),
        ({"max_tokens": "5"}, "INVALID_SAMPLING", "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "INVALID_SAMPLING", "max_tokens"),
        ({"logprobs": 2}, "INVALID_SAMPLING", "logprobs"),
        ({"n": 10**9}, "INVALID_SAMPLING", "n"),
        ({"n": 2, "logprobs": True}, "INVALID_SAMPLING", "n"),
        ({"prompt": "beside"}, "INVALID_SAMPLING", "prompt"),
        ({"temperature": [1]}, "INVALID_SAMPLING", "temperature"),
    ],
)
def test_a_wrong_value_is_an_error_of_its_request_that_names_the_field(
    body: dict[str, Any], code: str, field: str
) -> None:
    rows = of_batch(CHAT, [{"messages": MESSAGES}, {"messages": MESSAGES, **body}])
    assert rows is not None
    assert [row["error_code"] for row in rows] == [None, code]
    assert rows[1]["error_message"].startswith(f"{field}: ")
    assert rows[1]["custom_id"] == "c1"


def test_logprobs_of_a_completion_are_its_own() -> None:
    for bodies in ([{"logprobs": 0}], [{"logprobs": 0}, {"logprobs": 2}, {}], [{}, {"logprobs": 0}]):
        rows = of_batch(PLAIN, [{"prompt": "p", **body} for body in bodies])
        assert rows is not None
        found = [row["sampling"] and Sampling.from_json(row["sampling"].encode()).logprobs for row in rows]
        assert found == [body.get("logprobs") for body in bodies]


def test_token_ids_are_taken_as_they_are() -> None:
    rows = of_batch(
        PLAIN,
        [{"prompt": [104, 105]}, {"prompt": [[104]]}, {"prompt": "hi"}, {"prompt": [999]}, {"prompt": ["a", "b"]}],
    )
    assert rows is not None
    assert [row["token_ids"] for row in rows[:3]] == [[104, 105], [104], [104, 105]]
    assert [row["error_code"] for row in rows] == [None, None, None, "INVALID_MESSAGES", "INVALID_MESSAGES"]
    assert all(row["error_message"].startswith("prompt: ") for row in rows[3:])
    assert of_batch(PLAIN, [{"prompt": [104]}]) is not None


def test_lines_of_both_kinds_in_one_file() -> None:
    chat, plain = {"messages": MESSAGES}, {"prompt": "hi"}
    rows = prepared(CHAT_JOB, [plain, chat, plain])
    assert len({tuple(row["token_ids"]) for row in rows}) == 1
    without = CHAT_JOB.evolve(input=CHAT_JOB.input.evolve(chat=False))
    assert [row["error_code"] for row in prepared(without, [plain, chat, {**plain, "tools": [{"name": "f"}]}])] == [
        *(None, "INVALID_MESSAGES", "INVALID_MESSAGES")
    ]


@pytest.mark.parametrize("field", ["other", "messages", "tools", "sampling_params", "custom_id"])
def test_no_depth_of_a_line_costs_another(field: str) -> None:
    """Near the limit of recursion Python reads what it cannot write."""
    for depth in (63, 499, 900, *range(930, 1000), 5000):
        line = b'{"prompt": "b", "%s": %s}' % (field.encode(), b"[" * depth + b"]" * depth)
        rows = prepared(CHAT_JOB, [{"prompt": "a"}, line])
        assert (rows[0]["error_code"], len(rows)) == (None, 2)
        assert (rows[1]["error_code"] is None) == (field == "other" and depth < 500), depth


@pytest.mark.parametrize("value", [5, 1.5, True, [1], {"a": 1}])
def test_a_prompt_of_another_type_is_no_text(value: Any) -> None:
    rows = prepared(CHAT_JOB, [{"prompt": "a"}, {"prompt": value}])
    assert [row["error_code"] for row in rows] == [None, "INVALID_MESSAGES"]


@pytest.mark.parametrize(
    ("value", "code"), [(5, None), ("5", None), (10**30, None), (1.5, "INVALID_MESSAGES"), ([1], "INVALID_MESSAGES")]
)
def test_a_custom_id_is_text_or_a_whole_number(value: Any, code: str | None) -> None:
    rows = prepared(CHAT_JOB, [{"prompt": "a", "custom_id": "x"}, {"prompt": "b", "custom_id": value}])
    assert [row["error_code"] for row in rows] == [None, code]


def test_files_for_other_endpoints_are_refused_with_those_that_work(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    wrong = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "hi"}}
    path.write_text(json.dumps(wrong) + "\n")
    with pytest.raises(InvalidInput, match=r"endpoint /v1/responses is not supported; /v1/chat/completions and"):
        inspect(str(path))
    good = {**wrong, "url": CHAT, "body": {"messages": MESSAGES}}
    rows = prepared(CHAT_JOB, [wrong, good])
    assert [row["error_code"] for row in rows] == ["INVALID_MESSAGES", None]
    assert rows[0]["custom_id"] == "a"


def test_what_is_wrong_with_a_cell_passes_the_decoders_walls(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": 5}\n{broken\n')
    spec = CHAT_JOB.evolve(input=CHAT_JOB.input.evolve(uri=str(path)))
    dataset = inspect(str(path))
    preparer = RowPreparer(spec, resolve_columns(dataset.schema, spec.input), BytesEncoder(), 100)
    [batch] = [batch for piece in slices(dataset) for batch in read_slice(piece)]
    assert preparer.prepare(batch, 0)["error_code"].to_pylist() == [None, "INVALID_MESSAGES", "INVALID_MESSAGES"]
