"""Structured outputs, tools and scoring as a user asks for them: commands in, result columns out. Fake engine."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.harness import User, check_invariants, new_id, write_prompts

SCHEMA = {"type": "object", "properties": {"fake": {"type": "string"}}, "required": ["fake"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
SMALL_SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.target_count=5")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "data.parquet", [f"prompt {n}" for n in range(12)])


def columns_of_shards(user: User, job_id: str) -> set[tuple[str, ...]]:
    ledger = user.ledger(job_id)
    shards = [ledger.read_result(shard) for shard in sorted(ledger.committed())]
    return {tuple(pa.parquet.read_schema(pa.BufferReader(data)).names) for data in shards}


def test_a_json_schema_gives_the_column_parsed(user: User, dataset: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    job_id = new_id()
    user.run("submit", str(dataset), "--engine", "fake", "--json-schema", str(schema), "--id", job_id, "--wait")
    table = check_invariants(user.ledger(job_id), 12)
    assert all(set(json.loads(parsed)) == {"fake"} for parsed in table["parsed"].to_pylist())
    assert user.ledger(job_id).spec().sampling.structured_outputs.json_schema == json.dumps(SCHEMA)

    cut = new_id()
    user.run(
        *("submit", str(dataset), "--engine", "fake", "--json-schema", str(schema), "--max-tokens", "5"),
        *("--id", cut, "--wait"),
    )
    table = check_invariants(user.ledger(cut), 12)
    assert table["parsed"].to_pylist() == [None] * 12
    assert set(table["finish_reason"].to_pylist()) == {"length"}


@pytest.mark.nightly
def test_a_choice_of_answers(user: User, dataset: Path) -> None:
    job_id = new_id()
    user.run(
        *("submit", str(dataset), "--engine", "fake", "--choice", "yes", "--choice", "no", "--id", job_id, "--wait")
    )
    table = check_invariants(user.ledger(job_id), 12)
    assert set(table["generated_text"].to_pylist()) == {"yes", "no"}
    assert "parsed" not in table.schema.names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--regex", "("), "regex cannot be compiled"),
        (("--regex", "a", "--choice", "b"), "given: regex and choice"),
        (("--json-schema", "bad.json"), "json_schema cannot be compiled"),
        (("--json-schema", "missing.json"), "Cannot read --json-schema"),
        (("--tools", "bad.json"), "tools"),
        (("--tools", "nameless.json"), "tool 1 is not a function with a name"),
        (("--tools", "good.json", "--no-chat"), "Tools need the chat format"),
        (("--temperature", "2.5"), "temperature"),
        (("--set", 'sampling.logit_bias={"5": 101}'), "-100 to 100"),
        (("--task", "score"), "no column 'choices'"),
        (("--task", "score", "--temperature", "0.5"), "Scoring generates nothing"),
        (("--choices-column", "prompt"), "--task score"),
        (("--task", "rank"), "--task must be generate, score or perplexity"),
        (("--task", "perplexity"), "add --no-chat"),
        (("--token-logprobs",), "generated ones have --logprobs"),
    ],
)
def test_what_cannot_work_is_refused_at_submit(
    user: User, dataset: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    for name, document in {"bad": {"type": "objekt"}, "nameless": [{"x": 1}], "good": [WEATHER]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    given = [str(tmp_path / word) if word.endswith(".json") else word for word in arguments]
    done = user.run("submit", str(dataset), "--engine", "fake", *given, code=2)
    assert words in " ".join(done.stderr.split())
    assert user.json("list") == []


def test_rows_ask_for_forms_and_bad_ones_are_error_rows(user: User, tmp_path: Path) -> None:
    forms = [
        {"json": SCHEMA},
        {"regex": "("},
        {"choice": ["a", "b"]},
        {"choice": []},
        {"json": SCHEMA, "regex": "a"},
        None,
        None,
        None,
    ]
    formats = [
        *[None] * 5,
        {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        {"type": "json_object"},
        {"type": "xml"},
    ]
    dataset = write_prompts(
        tmp_path / "forms.parquet",
        [f"prompt {n}" for n in range(8)],
        structured_outputs=[None if form is None else json.dumps(form) for form in forms],
        response_format=[None if form is None else json.dumps(form) for form in formats],
    )
    job_id = new_id()
    user.run("submit", str(dataset), "--engine", "fake", "--id", job_id, *SMALL_SHARDS, "--wait", code=3)
    table = check_invariants(user.ledger(job_id), 8)
    bad = "INVALID_SAMPLING"
    assert table["error_code"].to_pylist() == [None, bad, None, bad, bad, None, None, bad]
    assert [parsed is not None for parsed in table["parsed"].to_pylist()] == [
        *(True, False, False, False, False, True, True, False)
    ]
    assert table["generated_text"][2].as_py() in ("a", "b")
    assert len(columns_of_shards(user, job_id)) == 1


def test_tools_of_the_job_and_of_rows_reach_the_prompt(user: User, dataset: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([WEATHER]))
    plain, offered = new_id(), new_id()
    user.run("submit", str(dataset), "--engine", "fake", "--id", plain, "--wait")
    user.run("submit", str(dataset), "--engine", "fake", "--id", offered, "--tools", str(tools), "--wait")
    without, with_tools = (check_invariants(user.ledger(job_id), 12) for job_id in (plain, offered))
    assert "tool_calls" not in without.schema.names
    assert with_tools["tool_calls"].to_pylist() == [None] * 12
    more = {b - a for a, b in zip(*(t["num_input_tokens"].to_pylist() for t in (without, with_tools)), strict=True)}
    assert len(more) == 1
    assert more.pop() > len(json.dumps(WEATHER["function"]))

    own = [json.dumps([WEATHER]), None, "[", json.dumps([{"name": ""}])]
    rows = write_prompts(tmp_path / "rows.parquet", ["prompt 0"] * 4, tools=own)
    job_id = new_id()
    user.run("submit", str(rows), "--engine", "fake", "--id", job_id, "--wait", code=3)
    table = check_invariants(user.ledger(job_id), 4)
    assert table["error_code"].to_pylist() == [None, None, "INVALID_MESSAGES", "INVALID_MESSAGES"]
    assert table["num_input_tokens"][0].as_py() == with_tools["num_input_tokens"][0].as_py()
    assert table["num_input_tokens"][1].as_py() == without["num_input_tokens"][0].as_py()


def test_choices_are_scored_and_bad_ones_are_error_rows(user: User, tmp_path: Path) -> None:
    choices = [["A", "B", "C"], [" yes", " no", " yes"], [], None, ["a", ""], ["x" * 990, "b"], ["only"]]
    dataset = write_prompts(tmp_path / "mcq.parquet", ["A question?"] * 7, answers=choices, choices=["kept"] * 7)
    job_id = new_id()
    arguments = ("submit", str(dataset), "--engine", "fake", "--task", "score", "--max-model-len", "1000")
    assert "Cannot keep column 'choices'" in user.run(*arguments, "--keep", "choices", code=2).stderr
    user.run(*arguments, "--choices-column", "answers", "--id", job_id, *SMALL_SHARDS, "--wait", code=3)
    table = check_invariants(user.ledger(job_id), 7)
    bad = "INVALID_CHOICES"
    assert table["error_code"].to_pylist() == [None, None, bad, bad, bad, "CONTEXT_LENGTH_EXCEEDED", None]
    assert "generated_text" not in table.schema.names
    for row, given in zip(table.to_pylist(), choices, strict=True):
        if row["status"] == "error":
            assert row["choices"] is None
            assert row["best_choice"] is None
            continue
        assert [choice["text"] for choice in row["choices"]] == given
        sums = [choice["sum_logprob"] for choice in row["choices"]]
        assert row["best_choice"] == sums.index(max(sums))
        for choice in row["choices"]:
            assert choice["num_tokens"] == len(choice["text"])
            assert choice["mean_logprob"] == pytest.approx(choice["sum_logprob"] / choice["num_tokens"])
        assert row["num_input_tokens"] > sum(map(len, given))
    assert table["choices"][1].as_py()[0] == table["choices"][1].as_py()[2]
    assert {choice["is_greedy"] for row in table["choices"].to_pylist() for choice in row or ()} <= {True, False}
    manifest = user.ledger(job_id).terminal().manifest
    assert (manifest.num_error_rows, manifest.num_generated_tokens) == (4, 0)
    shown = user.run("results", job_id).stdout
    assert "best_choice" in shown


def test_texts_are_scored_as_a_whole_with_each_token_if_asked(user: User, tmp_path: Path) -> None:
    texts = ["Some words.", "", "x" * 250, "Some words."]
    dataset = write_prompts(tmp_path / "texts.parquet", texts)
    job_id = new_id()
    arguments = ("--engine", "fake", "--task", "perplexity", "--no-chat", "--token-logprobs", "--max-model-len", "102")
    user.run("submit", str(dataset), *arguments, "--id", job_id, "--wait", code=3)
    table = check_invariants(user.ledger(job_id), 4)
    assert table["error_code"].to_pylist() == [None, "EMPTY_PROMPT", None, None]
    first, _, long, last = table.to_pylist()
    for row, text in ((first, texts[0]), (long, texts[2])):
        assert row["num_scored_tokens"] == len(text)
        assert bytes(row["token_ids"]).decode() == text
        assert row["sum_logprob"] == pytest.approx(sum(row["token_logprobs"]))
        assert row["mean_logprob"] == pytest.approx(row["sum_logprob"] / len(text))
        assert row["perplexity"] == pytest.approx(math.exp(-row["mean_logprob"]))
    assert (first["num_input_tokens"], long["num_input_tokens"]) == (12, 3 * 101), "a window is 101 tokens"
    assert {**last, "row_id": 0, "custom_id": "id-0"} == first
    told = user.json("plan", str(dataset), *arguments)
    assert (told["input_tokens"], told["output_tokens"]) == (12 + 303 + 12, 0)


def test_columns_named_like_ours_are_kept(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "keep.parquet", ["a", "b"], sampling=["x", "y"], token_ids=["t", "u"])
    job_id = new_id()
    user.run(
        *(
            "submit",
            str(dataset),
            "--engine",
            "fake",
            "--keep",
            "custom_id,sampling,token_ids",
            "--id",
            job_id,
            "--wait",
        )
    )
    table = check_invariants(user.ledger(job_id), 2)
    assert table["sampling"].to_pylist() == ["x", "y"]
    assert table["token_ids"].to_pylist() == ["t", "u"]
    assert table["custom_id"].to_pylist() == ["id-0", "id-1"]


def test_plan_counts_what_staging_would(user: User, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "mcq.parquet", ["A question?"] * 3, choices=[["A", "B"], ["long one"], []])
    told = user.json("plan", str(dataset), "--engine", "fake", "--task", "score")
    assert told["invalid_rows"] == {"INVALID_CHOICES": 1}
    assert told["output_tokens"] == 0
