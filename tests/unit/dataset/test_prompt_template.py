"""Templates: what a value prints, which columns they name, and that no row takes more than its share of work."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import UsageError
from jobs.templates.prompt import render, template_columns
from jobs.values.cells import RowFailure, rows
from schemas.codes import RowError


def printed(template: str, **columns: Any) -> str | RowFailure:
    """What a template makes of a row of these Arrow arrays, one value each."""
    table = pa.table(
        {name: value if isinstance(value, pa.Array) else pa.array([value]) for name, value in columns.items()}
    )
    [row] = rows(table.select(list(template_columns(template, table.schema.names))))
    return row if isinstance(row, RowFailure) else render(template, row, 4 * 2**20)


def why(template: str, **columns: Any) -> str:
    found = printed(template, **columns)
    assert isinstance(found, RowFailure), found
    assert found.code is RowError.TEMPLATE_ERROR
    return found.message.removeprefix("template: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pa.array(["a"]), "a"),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array([b"caf\xc3\xa9"]), "café"),
        (pa.array([b"caf\xc3\xa9"]).dictionary_encode(), "café"),
        (pa.array([b"ab"], pa.binary(2)), "ab"),
        (pa.array([[b"caf\xc3\xa9"]]), '["café"]'),
        (pa.array([True]), "true"),
        (pa.array([[True, None]]), "[true, null]"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([np.float16(0.1)], pa.float16()), "0.1"),
        (pa.array([[0.1]], pa.list_(pa.float32())), "[0.1]"),
        (pa.array([1e22]), "1e+22"),
        (pa.array([5.0]), "5.0"),
        (pa.array([Decimal("0E-10")]), "0.0000000000"),
        (pa.array([Decimal("12345678901234567890.5")], pa.decimal256(60, 1)), "12345678901234567890.5"),
        (pa.array([dt.date(2026, 3, 1)]), "2026-03-01"),
        (pa.array([10**7], pa.int32()).view(pa.date32()), "+29349-01-26"),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        (pa.array([0], pa.timestamp("s", "Europe/Berlin")), "1970-01-01T01:00:00+01:00"),
        (pa.array([0], pa.timestamp("s", "Mars/Base")), "1970-01-01T00:00:00+00:00"),
        (pa.array([253402300800], pa.timestamp("s")), "+10000-01-01T00:00:00"),
        (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([-90061], pa.duration("s")), "-P1DT1H1M1S"),
        (pa.array([pa.MonthDayNano([14, 3, 0])], pa.month_day_nano_interval()), "P14M3D"),
        (pa.array([UUID(int=1).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000001"),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), '{"a": 1}'),
        (pa.array([[("k", "it's")]], pa.map_(pa.string(), pa.string())), '{"k": "it\'s"}'),
        (pa.array([{"a": None, "b": [dt.date(2026, 3, 1)]}]), '{"a": null, "b": ["2026-03-01"]}'),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
@pytest.mark.parametrize(
    "template", ["{{ v }}", "{{ '' ~ v }}", "{{ v|string }}", "{{ [v]|join }}", "{{ '%s' % (v,) }}"]
)
def test_a_value_prints_its_text_wherever_it_becomes_one(template: str, value: pa.Array, text: str) -> None:
    assert printed(template, v=value) == text


@pytest.mark.parametrize(
    "template", ["{{ v }}", "{{ '' ~ v }}", "{{ v|trim }}", "{{ ['a', v]|join(',') }}", "{{ v.upper() }}"]
)
def test_a_null_is_refused_by_its_name(template: str) -> None:
    assert why(template, v=pa.array([None], pa.string())) == "column `v` is null"


def test_nulls_can_be_tested_replaced_and_named_inside_of_structs() -> None:
    null = pa.array([None], pa.string())
    assert printed("{{ v|default('-', true) }}{{ v is none }}{{ v == none }}{{ v or 'x' }}", v=null) == "-truetruex"
    assert why("{{ order.city }}", order={"city": None, "n": 1}) == "`city` is null"
    assert "a value is null" in why("{{ v|join(',') }}", v=pa.array([["a", None]]))
    assert printed("{{ order.items }}", order={"items": ["a"]}) == '["a"]'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    assert why("{{ v }}", v=value) == "column `v` is NaN or infinite"
    assert "NaN" in why("{{ v }}", v=pa.array([[1.0, value]]))
    assert "NaN" in why("{{ '' ~ v }}", v=value)


@pytest.mark.parametrize("what", ["v.upper", "v|map('upper')", "range", "range(3)", "dict", "cycler('a')", "v.encode"])
def test_what_is_no_value_is_refused(what: str) -> None:
    found = printed("{{ " + what + " }}{{ v }}", v="text")
    assert isinstance(found, RowFailure)
    assert "<" not in found.message


def test_the_sandbox_holds() -> None:
    assert (
        why("{{ v.__class__.__mro__ }}", v="a")
        == why("{{ v.__class__ }}", v="a")
        == "it uses something that prompts may not use"
    )
    assert why("{{ v|attr('__class__') }}", v="a") == "it uses something that prompts may not use"


def test_text_that_is_not_utf8_is_refused() -> None:
    for column in (pa.array([b"\xff"]), pa.array([[b"\xff"]]), pa.array([b"\xff"]).view(pa.string())):
        found = printed("{{ v }}", v=column)
        assert isinstance(found, RowFailure)
        assert (found.code, found.message) == (RowError.INVALID_TEXT, "the text of column `v` is not valid UTF-8")


def test_columns_of_any_name_can_be_named() -> None:
    odd = ["my column", "a-b", "x.y", "for", "range", "self", "none", "größe", "1st", 'q"q', "it's"]
    for name in odd:
        table = pa.table({name: ["found"], "other": ["no"]})
        template = "{{ row[" + repr(name) + "] }}"
        assert template_columns(template, table.schema.names) == (name,)
        assert render(template, {name: "found"}, 100) == "found"
    assert template_columns("{{ row.text }}{{ n }}", ["text", "n", "other"]) == ("n", "text")
    assert template_columns("{{ row|tojson }}", ["text", "other"]) == ("other", "text")
    assert template_columns("{{ row }}", ["row", "other"]) == ("row",)
    assert printed("{% for k in row %}{{ k }}={{ row[k] }};{% endfor %}", a="1", b=2) == "a=1;b=2;"


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("{{ my column }}", "row['my column']"),
        ("{{ my-column }}", "row['my column']"),
        ("{{ row['nope'] }}", "row['my column']"),
        ("{{ range }}{{ text }}", "row['range']"),
        ("{% include 'a' %}{{ text }}", "without"),
        ("{{ text|random }}", "--template"),
        ("{{ lipsum() }}{{ text }}", "--template"),
        ("{{ " + "(" * 5000 + "text" + ")" * 5000 + " }}", "levels"),
    ],
)
def test_refused_templates_say_what_to_write(template: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        template_columns(template, ["my column", "text", "range"])
    assert hint in caught.value.hint


def test_faults_name_the_filter_and_never_the_value() -> None:
    assert why("{{ v|round(1) }}", v="canary") == (
        "the filter `round` failed: a value is of the wrong kind: text for a number, say, or a null in a list"
    )
    assert "nope" in why("{{ v.nope }}", v={"a": 1})
    assert "canary" not in why("{{ d[v] }}", v="canary", d={"a": 1})


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in v %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(35) }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for x in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 2 ** 100000000 }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ '1'.zfill(10**9) }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ ('\t' * 10**6).expandtabs(10**6) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%.1000000000f'|format(1.5) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ 5|round(-10**9) }}",
    "{{ [1]|batch(10**9, 0)|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{{ ('\n' * 10**6)|indent(10**6) }}",
    "{{ ('a' * 4000000)|wordwrap(1) }}",
    "{{ ('a' * 10**6)|replace('a', 'b' * 10**6) }}",
    "{{ ('a' * 10**6)|replace(old='', new='b' * 1000) }}",
    "{{ ('a' * 10**6)|join('b' * 10**4) }}",
    "{{ ('ab' * 10**6).rfind('b' + 'a' * 900000) }}",
    "{{ ('é' * 10**5).encode('punycode') }}",
    "{{ ([[1]] * 10**5)|sum(start=[])|length }}",
    "{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s == n.s }}",
    "{% set n = namespace(s=(1,)) %}{% for i in range(60) %}{% set n.s = (n.s, n.s) %}{% endfor %}{{ {n.s: 1} }}",
    "{% for i in range(99999) %}{% set z = ('a' * 100000)|upper %}{% endfor %}",
    "{% set a = range(99999)|list %}{% for i in a %}{% set z = a[1:] %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in 'a' * 100000 if false %}{% endfor %}{% endfor %}",
    "{{ range(99999)|map('center', 100000)|join }}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_work_without_end_costs_its_row_and_little_time(template: str) -> None:
    started = time.process_time()
    message = why(template + "{{ v }}", v="text")
    assert time.process_time() - started < 30, "a guard against a hang; the work itself is counted"
    assert why(template + "{{ v }}", v="text") == message, "the same row has the same fate"


def test_a_prompt_beyond_its_bytes_is_too_large() -> None:
    found = render("{% for i in range(9999) %}{{ v }}{% endfor %}", {"v": "x" * 100}, 1000)
    assert isinstance(found, RowFailure)
    assert found.code is RowError.ROW_TOO_LARGE


def test_large_rows_have_room_for_ordinary_templates() -> None:
    text = "word " * 600_000
    assert len(str(render("{{ v|trim|upper|replace('WORD', 'x')|wordcount }}", {"v": text}, 4 * 2**20))) == 6
    items = [{"name": f"n{i}", "price": i} for i in range(20_000)]
    listed = "{% for i in v if i.price > 3 %}{{ loop.index }}. {{ i.name }}: {{ '%.2f' % i.price }}\n{% endfor %}"
    assert str(render(listed, {"v": items}, 4 * 2**20)).count("\n") == 19_996
