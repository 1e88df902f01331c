"""JSON arrays, compressed text and Arrow files, each as its tools write it and as hostile bytes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import failures_of, inspect, resolve_columns, slices
from jobs.dataset import read_slice as read_guarded
from jobs.dataset.inspection import inspect as look_at
from jobs.dataset.reading import read_slice
from jobs.errors import InvalidInput
from schemas.codes import RowError
from schemas.spec import InputSpec
from tests.support.quick import examples

ROWS: list[dict[str, Any]] = [{"prompt": f'row {n} "[,]{{}}\\', "n": n} for n in range(20)]


def rows_of(path: Path, max_rows: int = 8192) -> list[dict[str, Any]]:
    return [row for piece in slices(look_at(str(path)), max_rows) for b in read_slice(piece) for row in b.to_pylist()]


def packed(data: bytes, ending: str) -> bytes:
    if ending == ".gz":  # in two members, as `cat a.gz b.gz` makes them
        return gzip.compress(data[:99]) + gzip.compress(data[99:])
    return pa.compress(data, codec="zstd", asbytes=True) if ending == ".zst" else data


TEXTS = {
    "a.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS),
    "a.json": json.dumps(ROWS, indent=1),
    "lines.json": "".join(f"{json.dumps(row)}\n" for row in ROWS),
    "a.csv": "prompt,n\n"
    + "".join('"{prompt}",{n}\n'.format_map(r | {"prompt": r["prompt"].replace('"', '""')}) for r in ROWS),
}


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_of_each_kind_and_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str
) -> None:
    monkeypatch.setattr("jobs.dataset.records._BLOCK_ROWS", 3)
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(packed(TEXTS[name].encode(), ending))
    wanted = ROWS if name != "a.csv" else [row | {"n": str(row["n"])} for row in ROWS]
    for max_rows in (1, 4, 99):
        assert rows_of(path, max_rows) == wanted
    dataset = inspect(str(path))
    assert [row for piece in slices(dataset, 7) for b in read_guarded(piece) for row in b.to_pylist()] == wanted
    if ending:
        assert len(slices(dataset, 1)) <= 16
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(InvalidInput, match=f"{name}{ending} is damaged: it cannot be decompressed"):
            inspect(str(path))


@given(
    rows=st.lists(
        st.one_of(st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=2), st.integers(), st.none()),
        max_size=8,
    ),
    indent=st.sampled_from([None, 0, 3]),
    step=st.sampled_from([1, 7, 64]),
)
@settings(max_examples=examples(40), deadline=None)
def test_an_array_is_cut_as_its_parser_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, step: int
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps([{"p": "x"}, *rows], indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.dataset.json_array._LEAST_READ_BYTES", step)
        patch.setattr("jobs.dataset.records._BLOCK_ROWS", 2)
        dataset = look_at(str(path))
        found = [b for piece in slices(dataset, 2) for b in read_slice(piece)]
    values = [row for batch in found for row in batch.to_pylist()]
    failed = [index in failures_of(batch) for batch in found for index in range(len(batch))]
    assert failed == [False, *(not isinstance(row, dict) for row in rows)]
    for row, value in zip(rows, values[1:], strict=True):
        assert (
            all(value[name] == text for name, text in row.items()) if isinstance(row, dict) else not any(value.values())
        )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"prompt": "a"}, {"prompt"', "ends before its array does"),
        ('[{"prompt": "a"}', "ends before its array does"),
        ('[{"prompt": "a"}] [1]', "goes on after the end"),
        ('[{"prompt": "a"},,{}]', "a comma without an element"),
        ('[{"prompt": "a"},]', "a comma without an element"),
        ('[{"prompt": "secret}]', "ends before its array does"),
        ('{\n"data": [{"prompt": "secret"}]\n}', "no line is a whole JSON object"),
    ],
)
def test_a_damaged_array_is_refused_whole(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=why) as caught:
        inspect(str(path))
    assert "secret" not in f"{caught.value}{caught.value.hint}"


def test_an_element_that_is_no_object_costs_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"prompt": "a"}, 5, {"prompt": tru}]')
    [piece] = slices(inspect(str(tmp_path / "a.json")))
    [batch] = read_guarded(piece)
    assert {index: failure.code for index, failure in failures_of(batch).items()} == {
        1: RowError.INVALID_MESSAGES,
        2: RowError.INVALID_MESSAGES,
    }


# -- Arrow ----------------------------------------------------------------------------------------

TABLE = pa.table({"prompt": [f"row {n}" for n in range(50)], "n": pa.array(range(50), pa.int32())})


def stream(path: Path, table: pa.Table = TABLE) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def feather(path: Path, table: pa.Table = TABLE) -> None:
    pyarrow.feather.write_feather(table, str(path), compression="lz4", chunksize=7)


@pytest.mark.parametrize("write", [stream, feather])
def test_arrow_files_and_streams(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.arrow"
    write(path)
    for max_rows in (1, 8, 99):
        assert rows_of(path, max_rows) == TABLE.to_pylist()
    data = path.read_bytes()
    for cut in (9, 100, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(InvalidInput, match=r"a\.arrow is (damaged|truncated)"):
            inspect(str(path))


@pytest.mark.parametrize("write", [stream, feather])
def test_flipped_bytes_of_an_arrow_file_end_no_process_of_ours(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.arrow"
    write(path, pa.table({"prompt": [f"row {n}" for n in range(20)], "l": [[n, n] for n in range(20)]}))
    data = bytearray(path.read_bytes())
    for place in range(8, len(data), 97):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        try:
            dataset = inspect(str(path))
            found = [b for piece in slices(dataset) for b in read_guarded(piece)]
            assert sum(map(len, found)) == dataset.num_rows
        except InvalidInput as error:
            assert "a.arrow" in str(error)  # noqa: PT017


@pytest.mark.parametrize("type_", [pa.string(), pa.list_(pa.int8()), pa.dictionary(pa.int8(), pa.string())])
def test_what_points_out_of_an_arrow_file_is_refused(tmp_path: Path, type_: pa.DataType) -> None:
    if pa.types.is_dictionary(type_):
        broken = pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int8()), pa.array(["a"]), safe=False)
    else:
        buffers = [None, pa.array([0, 3, 2, 5], pa.int32()).buffers()[1]]
        children = [] if pa.types.is_string(type_) else [pa.array([1, 2, 3, 4, 5], pa.int8())]
        buffers += [] if children else [pa.py_buffer(b"abcde")]
        broken = pa.Array.from_buffers(type_, 3, buffers, children=children)
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), pa.schema([("prompt", type_)])) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([broken], names=["prompt"]))
    [piece] = slices(inspect(str(tmp_path / "a.arrow")))
    with pytest.raises(InvalidInput, match=r"a\.arrow is damaged"):
        list(read_guarded(piece))


def test_columns_that_arrow_cannot_give_matter_to_those_who_use_them(tmp_path: Path) -> None:
    arrays = [pa.array(["a", "b"]), pa.array([1, 2]), pa.array([3, 4])]
    table = pa.Table.from_arrays(arrays, names=["prompt", "n", "n"])
    stream(tmp_path / "a.arrow", table)
    dataset = inspect(str(tmp_path / "a.arrow"))
    [piece] = slices(dataset)
    [batch] = read_guarded(piece)
    assert batch.to_pylist() == [{"prompt": "a", "n": None}, {"prompt": "b", "n": None}]
    with pytest.raises(InvalidInput, match=r"'n' of .*a\.arrow is there twice"):
        resolve_columns(dataset.schema, InputSpec(uri="x", keep=("n",)))


def test_a_saved_dataset_is_what_its_record_names(tmp_path: Path) -> None:
    root = tmp_path / "saved"
    root.mkdir()
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "cache-1f.arrow"):
        stream(root / name)
    (root / "dataset_info.json").write_text("{}")
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    assert [Path(file.uri).name for file in inspect(str(root)).files] == names
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../cache-1f.arrow"}]}))
    with pytest.raises(InvalidInput, match="does not name files of that directory"):
        inspect(str(root))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InvalidInput, match="splits train, test") as caught:
        inspect(str(tmp_path))
    assert caught.value.hint.endswith("/train")
