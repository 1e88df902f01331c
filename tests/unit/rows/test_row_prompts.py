"""One bad row costs one row: what hostile or broken values become in staging."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset import resolve_columns
from jobs.errors import InvalidInput
from jobs.models.encoding import BYTES_MODEL, BytesEncoder
from jobs.rows.prepare import RowPreparer
from schemas.spec import JobSpec


def prepare(table: pa.Table, *, max_model_len: int = 1000, **input_spec: Any) -> pa.Table:
    job = JobSpec.model_validate(
        {
            "name": "n",
            "input": {"uri": "/x", **input_spec},
            "model": {"path": BYTES_MODEL},
            "engine": {"name": "fake"},
        }
    )
    return RowPreparer(job, resolve_columns(table.schema, job.input), BytesEncoder(), max_model_len).prepare(table, 7)


def codes(staged: pa.Table) -> list[str | None]:
    return staged["error_code"].to_pylist()  # type: ignore[no-any-return]


def text_column(*values: bytes | None) -> pa.Array:
    """A string column as Parquet can hold it: not necessarily UTF-8."""
    return pa.array(values, pa.binary()).view(pa.string())


def test_every_row_comes_out_once_in_order_under_its_own_id() -> None:
    staged = prepare(pa.table({"prompt": ["a", "", None, "b" * 2000, "c"], "custom_id": [1, 2, 3, 4, 5]}))
    assert staged["row_id"].to_pylist() == [7, 8, 9, 10, 11]
    assert staged["custom_id"].to_pylist() == ["1", "2", "3", "4", "5"]
    assert codes(staged) == [None, "EMPTY_PROMPT", "EMPTY_PROMPT", "CONTEXT_LENGTH_EXCEEDED", None]
    assert [bool(ids) for ids in staged["token_ids"].to_pylist()] == [True, False, False, False, True]


def test_text_that_is_not_utf8_costs_its_row() -> None:
    staged = prepare(pa.table({"prompt": text_column(b"fine", b"\xff\xfe", b"fine too")}))
    assert codes(staged) == [None, "INVALID_TEXT", None]


@pytest.mark.parametrize("depth", [65, 500, 700, 980, 5000])
def test_json_that_is_nested_too_deeply_costs_its_row(depth: int) -> None:
    table = pa.table({"messages": ["[" * depth + "]" * depth, '[{"role": "user", "content": "fine"}]']})
    assert codes(prepare(table)) == ["INVALID_MESSAGES", None]


@pytest.mark.parametrize("params", ['{"stop": ["\\ud800"]}', '{"bad_words": ["a\\udfff"]}'])
def test_lone_surrogates_in_sampling_values_cost_their_row(params: str) -> None:
    staged = prepare(pa.table({"prompt": ["a", "b"], "sampling_params": [params, None]}))
    assert codes(staged) == ["INVALID_SAMPLING", None]


def test_template_values_beyond_pythons_dates_have_a_text_too() -> None:
    days = pa.array([0, 10_000_000], pa.int32()).view(pa.date32())
    staged = prepare(pa.table({"day": days, "text": ["a", "b"]}), template="{{ day }} {{ text }}")
    assert codes(staged) == [None, None]
    assert staged["num_input_tokens"][1].as_py() - staged["num_input_tokens"][0].as_py() == len("+2") - len("")


def test_a_template_that_fails_costs_its_row() -> None:
    staged = prepare(pa.table({"text": ["a", None]}), template="Say {{ text.upper() }}")
    assert codes(staged) == [None, "TEMPLATE_ERROR"]


def test_a_large_row_is_measured_in_bytes() -> None:
    staged = prepare(pa.table({"prompt": ["ä" * 40, "ä" * 60]}), max_row_bytes=100)
    assert codes(staged) == [None, "ROW_TOO_LARGE"]


def test_messages_of_the_system_alone_are_no_prompt() -> None:
    rows = [[{"role": "system", "content": "Be kind."}], [{"role": "user", "content": " "}], [{"role": "user"}]]
    table = pa.table({"messages": pa.array(rows)})
    assert codes(prepare(table)) == ["EMPTY_PROMPT", "EMPTY_PROMPT", "INVALID_MESSAGES"]


def test_error_messages_never_quote_the_row() -> None:
    table = pa.table({"prompt": ["canary " * 400], "sampling_params": ['{"stop": 7, "canary": 1}']})
    staged = prepare(table)
    assert "canary canary" not in staged["error_message"][0].as_py()


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_kept_columns_of_every_kind_of_text_can_be_sorted(kind: pa.DataType) -> None:
    table = pa.table({"prompt": ["a", "b"], "label": pa.array(["x", "y"]).cast(kind)})
    staged = prepare(table, keep=("label",)).sort_by([("row_id", "descending")])
    assert staged["kept.label"].to_pylist() == ["y", "x"]


def test_whole_numbers_that_a_writer_made_floats_are_taken() -> None:
    staged = prepare(pa.table({"prompt": ["a", "b", "c"], "max_tokens": [5.0, None, 5.5]}))
    assert codes(staged) == [None, None, "INVALID_SAMPLING"]


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    with pytest.raises(InvalidInput, match="two columns named 'prompt'"):
        prepare(table)
