"""`--truncate`: a text is cut by as little as its prompt needs, in the model's tokens; and parts of messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workers.demo
from jobs.dataset import resolve_columns
from jobs.errors import UsageError
from jobs.models.encoding import BYTES_MODEL, BytesEncoder, Encoder
from jobs.models.prompt_encoder import PromptEncoder
from jobs.rows.prepare import RowPreparer
from jobs.rows.truncation import cut
from schemas.spec import JobSpec
from schemas.tables import result_schema
from tests.support.quick import examples

MODEL = Path(workers.demo.__file__).parent / "model"
LIMIT = 100


def prepare(
    table: pa.Table, truncate: str | None, encoder: Encoder | None = None, max_tokens: int = 20, **given: Any
) -> pa.Table:
    job = JobSpec.model_validate(
        {
            "name": "n",
            "input": {"uri": "/x", "truncate": truncate, **given},
            "model": {"path": BYTES_MODEL},
            "engine": {"name": "fake"},
            "sampling": {"max_tokens": max_tokens},
        }
    )
    columns = resolve_columns(table.schema, job.input)
    return RowPreparer(job, columns, encoder or BytesEncoder(), LIMIT).prepare(table, 0)


TEXT = "".join(f"{n:03}" for n in range(100))


@pytest.mark.parametrize(
    ("part", "found"),
    [("tail", TEXT[:70]), ("head", TEXT[-70:]), ("middle", TEXT[:35] + TEXT[-35:])],
)
def test_the_named_part_is_dropped_and_the_rest_fills_the_room(part: str, found: str) -> None:
    table = pa.table({"text": [TEXT, "short"], "q": ["?", "?"]})
    staged = prepare(table, f"text={part}", template="<{{ text }}>{{ q }}")
    prompts = [bytes(ids).decode() for ids in staged["token_ids"].to_pylist()]
    # 100 tokens of context, of them 20 for the answer, and 10 for "user: <>?" and its line end.
    assert prompts == [f"user: <{found}>?\n", "user: <short>?\n"]
    assert staged["truncated"].to_pylist() == [True, False]


def test_only_rows_that_do_not_fit_are_cut() -> None:
    table = pa.table({"prompt": [TEXT[:92], TEXT[:93], "x"]})
    staged = prepare(table, "prompt=tail")
    assert [len(ids) for ids in staged["token_ids"].to_pylist()] == [99, 80, 8]
    assert staged["truncated"].to_pylist() == [False, True, False]
    without = prepare(table, None)
    assert without["error_code"].to_pylist() == [None, "CONTEXT_LENGTH_EXCEEDED", None]
    assert "truncated" not in without.schema.names


def test_the_answer_gets_at_most_half_of_the_context() -> None:
    staged = prepare(pa.table({"prompt": [TEXT]}), "prompt=tail", max_tokens=5000)
    assert [len(ids) for ids in staged["token_ids"].to_pylist()] == [50]


def test_a_row_that_is_too_long_without_its_text_stays_an_error() -> None:
    table = pa.table({"text": ["x" * 9], "other": [TEXT]})
    staged = prepare(table, "text=tail", template="{{ text }}{{ other }}")
    assert staged["error_code"].to_pylist() == ["CONTEXT_LENGTH_EXCEEDED"]
    assert staged["truncated"].to_pylist() == [False]


words = st.text(st.sampled_from("ab \n7,äßЖ漢🙂"), min_size=120, max_size=600)


@given(text=words, part=st.sampled_from(["head", "tail", "middle"]))
@settings(max_examples=examples(40), deadline=None)
def test_one_more_character_would_be_too_much_for_the_real_tokenizer(text: str, part: str) -> None:
    encoder = PromptEncoder.load(MODEL)
    staged = prepare(pa.table({"prompt": [text]}), f"prompt={part}", encoder)
    [ids] = staged["token_ids"].to_pylist()
    if not staged["truncated"][0].as_py():
        return
    room = LIMIT - 20

    def tokens(kept: int) -> Any:
        [found] = encoder.encode_chats([[{"role": "user", "content": cut(text, part, kept)}]])
        return found

    kept = max(k for k in range(len(text)) if tokens(k) == ids)
    assert len(ids) <= room < len(tokens(kept + 1))


@pytest.mark.parametrize(
    ("truncate", "given", "why"),
    [
        ("other=tail", {}, "no part of the prompt"),
        ("messages=tail", {"messages_column": "messages"}, "the prompts are messages"),
    ],
)
def test_a_column_that_cannot_be_cut_is_refused(truncate: str, given: dict[str, Any], why: str) -> None:
    chats = [[{"role": "user", "content": "x"}]]
    table = pa.table({"prompt": ["x"], "other": ["y"]} if not given else {"messages": chats})
    with pytest.raises(UsageError, match=why):
        prepare(table, truncate, **given)


@pytest.mark.parametrize(
    "values",
    [
        {"input": {"uri": "/x", "truncate": "text=left"}},
        {"input": {"uri": "/x", "truncate": "text"}},
        {"input": {"uri": "/x", "truncate": "text=tail", "keep": ["truncated"]}},
        {"input": {"uri": "/x", "truncate": "text=tail"}, "task": "score"},
    ],
)
def test_what_makes_no_sense_is_no_spec(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"trunc|tail"):
        JobSpec.model_validate({"name": "n", "model": {"path": "/m"}, **values})


def test_the_results_say_which_rows_were_cut() -> None:
    base = {"name": "n", "model": {"path": "/m"}}
    job = JobSpec.model_validate({**base, "input": {"uri": "/x", "truncate": "text=tail"}})
    assert result_schema(job, []).field("truncated").type == pa.bool_()
    plain = JobSpec.model_validate({**base, "input": {"uri": "/x"}})
    assert "truncated" not in result_schema(plain, [pa.field("kept", pa.string())]).names


# -- parts of messages ----------------------------------------------------------------------------

PARTS = [
    [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}],
    [{"type": "text", "text": "See"}, {"type": "image", "image": {"bytes": b"\xff\xd8"}}],
    [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
    [{"type": "input_audio", "input_audio": {"data": "AA=="}}],
]


@pytest.mark.parametrize("as_json", [False, True])
def test_images_and_sounds_are_refused_as_such_and_cost_their_row(as_json: bool) -> None:
    import json

    chats: list[Any] = [[{"role": "user", "content": parts}] for parts in PARTS]
    if as_json:
        chats = [json.dumps(chat, default=lambda data: "bytes") for chat in chats]
    staged = prepare(pa.table({"messages": chats}), None)
    assert staged["error_code"].to_pylist() == [None, *["INVALID_MESSAGES"] * 3]
    assert bytes(staged["token_ids"][0].as_py()).decode() == "user: Hi!\n"
    said = staged["error_message"].to_pylist()[1:]
    for kind, message in zip(("image", "image_url", "input_audio"), said, strict=True):
        assert message == f"message 1 has a content part that is {kind}, and only text is supported"
