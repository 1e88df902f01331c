"""Files that differ are one dataset where nothing is lost, and only the columns that are used must agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import inspect, read_slice, resolve_columns, slices
from jobs.dataset.columns import Columns
from jobs.errors import InvalidInput
from schemas.spec import InputSpec

TEXT = pa.string()


def write(root: Path, **files: dict[str, pa.Array]) -> Path:
    for name, columns in files.items():
        pq.write_table(pa.table(columns), root / f"{name}.parquet")
    return root


def resolved(root: Path, **options: Any) -> Columns:
    spec = InputSpec.model_validate({"uri": str(root), **options})
    return resolve_columns(inspect(str(root)).schema, spec, choices="choices_column" in options)


def column(root: Path, name: str) -> list[Any]:
    return [
        value
        for piece in slices(inspect(str(root)))
        for batch in read_slice(piece, [name])
        for value in batch[name].to_pylist()
    ]


def test_a_column_that_differs_and_nobody_uses_is_no_matter(tmp_path: Path) -> None:
    prompt = pa.array(["x"])
    write(tmp_path, a={"prompt": prompt, "n": pa.array([1])}, b={"prompt": prompt, "n": pa.array(["1"])})
    assert resolved(tmp_path).prompt_columns == ("prompt",)
    assert column(tmp_path, "prompt") == ["x", "x"]
    assert column(tmp_path, "n") == [None, None], "whoever reads all columns is not held up by it"
    for options in ({"keep": ("n",)}, {"template": "{{ n }}"}, {"prompt_column": "n"}, {"choices_column": "n"}):
        with pytest.raises(InvalidInput, match=r"column 'n' is string in .*b\.parquet and int64 in .*a\.parquet") as e:
            resolved(tmp_path, **options)
        assert "one schema" in e.value.hint


@pytest.mark.parametrize("name", ["custom_id", "max_tokens", "tools", "sampling_params", "response_format"])
def test_a_column_that_is_used_by_its_name_must_agree(tmp_path: Path, name: str) -> None:
    files = {file: {"prompt": pa.array(["x"]), name: pa.array([n])} for file, n in (("a", 1), ("b", "1"))}
    with pytest.raises(InvalidInput, match=f"column '{name}' is"):
        resolved(write(tmp_path, **files))


def test_an_optional_column_is_null_where_a_file_lacks_it_and_a_prompt_is_not(tmp_path: Path) -> None:
    prompt = pa.array(["x"])
    write(tmp_path, a={"prompt": prompt}, b={"prompt": prompt, "custom_id": pa.array(["i"]), "extra": prompt})
    found = resolved(tmp_path, keep=("extra",))
    assert (found.custom_id, found.kept) == ("custom_id", (pa.field("extra", TEXT),))
    assert column(tmp_path, "custom_id") == [None, "i"]
    assert column(tmp_path, "extra") == [None, "x"]
    for options in ({"prompt_column": "extra"}, {"template": "{{ extra }}"}, {"choices_column": "extra"}):
        with pytest.raises(InvalidInput, match=r"a\.parquet has no column 'extra'"):
            resolved(tmp_path, **options)


def test_files_of_several_writers_are_one_dataset(tmp_path: Path) -> None:
    message = pa.struct([("role", TEXT), ("content", TEXT)])
    other = pa.struct([("content", pa.large_string()), ("role", pa.dictionary(pa.int8(), TEXT)), ("name", pa.null())])
    chat = [{"role": "user", "content": "x"}]
    write(
        tmp_path,
        a={"messages": pa.array([chat], pa.list_(message)), "n": pa.array([1], pa.int8()), "k": pa.nulls(1)},
        b={"n": pa.array([2**40]), "messages": pa.array([chat], pa.large_list(other)), "k": pa.array(["k"])},
        c={"messages": pa.array([chat, None], pa.list_view(message)), "k": pa.array(["k", "l"]).dictionary_encode()},
    )
    assert resolved(tmp_path, keep=("n", "k")).kept == (pa.field("n", pa.int64()), pa.field("k", TEXT))
    assert column(tmp_path, "messages") == [[{**chat[0], "name": None}]] * 3 + [None]
    assert column(tmp_path, "n") == [1, 2**40, None, None]
    assert column(tmp_path, "k") == [None, "k", "k", "l"]


def test_a_value_that_the_others_type_does_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, a={"n": pa.array([0.5])}, b={"n": pa.array([2**53 + 1])})
    with pytest.raises(InvalidInput, match=r"Column 'n' of .*b\.parquet is int64, .* make it double") as caught:
        column(tmp_path, "n")
    assert str(2**53 + 1) not in str(caught.value)


def test_files_without_rows_have_no_say(tmp_path: Path) -> None:
    write(tmp_path, a={"prompt": pa.array([], pa.int64()), "x": pa.array([], TEXT)}, b={"prompt": pa.array(["p"])})
    assert inspect(str(tmp_path)).schema == pa.schema([("prompt", TEXT)])
    assert column(tmp_path, "prompt") == ["p"]


def test_names_of_extension_types_that_arrow_does_not_know_are_kept(tmp_path: Path) -> None:
    named = {"ARROW:extension:name": "geoarrow.wkb", "other": "x"}
    schema = pa.schema([pa.field("prompt", TEXT), pa.field("shape", pa.binary(), metadata=named)])
    pq.write_table(pa.table([["p"], [b"\1"]], schema=schema), tmp_path / "a.parquet")
    [field] = resolved(tmp_path, keep=("shape",)).kept
    assert field.metadata == {b"ARROW:extension:name": b"geoarrow.wkb"}


def test_a_name_that_is_there_twice_matters_to_those_who_use_it(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["p"]), pa.array([1])], names=["x", "prompt", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert resolved(tmp_path).prompt_columns == ("prompt",)
    assert column(tmp_path, "prompt") == ["p"]
    with pytest.raises(InvalidInput, match=r"Column 'x' of .*a\.parquet is there twice") as caught:
        resolved(tmp_path, keep=("x",))
    assert "Rename" in caught.value.hint
