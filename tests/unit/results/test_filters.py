"""The conditions of `--where`."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset.conditions import parse_conditions, select
from jobs.errors import UsageError

TABLE = pa.table(
    {
        "row": [0, 1, 2, 3],
        "text": ["a=b", "", None, "x > y"],
        "kind": pa.array(["u", "v", None, "u"]).dictionary_encode(),
        "number": [1.5, -2.0, None, 10.0],
        "flag": [True, False, None, True],
        "tags": [["a"], [], None, ["b"]],
    }
)


def rows(*conditions: str) -> list[int]:
    found: list[int] = select(TABLE, parse_conditions(conditions, TABLE.schema))["row"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], [0, 1, 2, 3]),
        (["kind=u"], [0, 3]),
        (["kind==u"], [0, 3]),
        (["kind != u"], [1, 2]),
        (["row>=1", "row<3"], [1, 2]),
        (["number>-2.5"], [0, 1, 3]),
        (["number <= 1.5"], [0, 1]),
        (["number!=10"], [0, 1, 2]),
        (["flag=true"], [0, 3]),
        (["text=a=b"], [0]),
        (["text=x > y"], [3]),
        (["text="], [1, 2]),
        (["text!="], [0, 3]),
        (["kind="], [2]),
        (["number!=", "tags!="], [0, 1, 3]),
        (["text>a"], [0, 3]),
    ],
)
def test_rows_that_fit(conditions: list[str], expected: list[int]) -> None:
    assert rows(*conditions) == expected


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("kind", "'kind' is not a condition"),
        ("=u", "is not a condition"),
        ("", "is not a condition"),
        ("nope=1", "no column 'nope'"),
        ("number>", "compares with nothing"),
        ("row=1.5", "'1.5' is not a value of column row \\(int64\\)"),
        ("number=many", "not a value"),
        ("tags=a", "cannot be compared"),
        ("kind=>u", None),
    ],
)
def test_what_cannot_be_asked(condition: str, words: str | None) -> None:
    if words is None:
        assert rows(condition) == [], "everything after the operator is the value"
        return
    with pytest.raises(UsageError, match=words) as caught:
        rows(condition)
    assert caught.value.hint


@given(st.text(max_size=12))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    for condition in (text, f"text{text}", f"number={text}"):
        refused, found = None, []
        try:
            found = rows(condition)
        except UsageError as error:
            refused = error
        assert refused is None or refused.hint
        assert found == sorted(set(found)), "rows once, in order"
