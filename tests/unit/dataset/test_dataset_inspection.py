"""Finding datasets and saying what is wrong with them, on real files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import InputChanged, check_unchanged, inspect, pin, read_slice, slices
from jobs.errors import Exit, InvalidInput
from tests.support.samples import write_chats


def write(path: Path, rows: int = 3, first: int = 0, **columns: pa.Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns or {"prompt": [f"row {i}" for i in range(first, first + rows)]})
    pq.write_table(table, path, row_group_size=2, write_page_checksum=True)
    return path


def prompts(uri: str | Path) -> list[str]:
    return [
        text
        for piece in slices(inspect(str(uri)), 4)
        for batch in read_slice(piece, ["prompt"])
        for text in batch["prompt"].to_pylist()
    ]


def names(uri: str | Path, root: Path) -> list[str]:
    return [os.path.relpath(file.uri, root) for file in inspect(str(uri)).files]


def test_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 5)
    dataset = inspect(str(path))
    assert dataset.num_rows == 5
    assert dataset.files[0].block_rows == (2, 2, 1)
    assert dataset.size_bytes == path.stat().st_size
    assert dataset.schema == pa.schema([("prompt", pa.string())])
    assert prompts(f"file://{path}") == prompts(path) == [f"row {i}" for i in range(5)]


def test_a_directory_in_name_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/z.parquet", "a.parquet", "_tmp/x.parquet", "a/.y.parquet", "_x.parquet"):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("hello")
    assert names(tmp_path, tmp_path) == ["a.parquet", "a/z.parquet", "b.parquet"]
    assert inspect(str(tmp_path)).left_out.others == ["README.md"]


def test_globs(tmp_path: Path) -> None:
    for name in ("p-1.parquet", "p-2.parquet", "q.parquet", "d/e/p-3.parquet", "_p-4.parquet", "[x].parquet"):
        write(tmp_path / name)
    assert names(tmp_path / "p-*.parquet", tmp_path) == ["p-1.parquet", "p-2.parquet"]
    assert names(tmp_path / "**" / "p-*.parquet", tmp_path) == ["d/e/p-3.parquet", "p-1.parquet", "p-2.parquet"]
    assert names(tmp_path / "p-[!1].parquet", tmp_path) == ["p-2.parquet"]
    assert names(tmp_path / "[x].parquet", tmp_path) == ["[x].parquet"]


def test_files_of_other_order_of_columns_read_alike(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", prompt=pa.array(["a"]), n=pa.array([1]))
    write(tmp_path / "b.parquet", n=pa.array([2]), prompt=pa.array(["b"]))
    batches = [batch for piece in slices(inspect(str(tmp_path))) for batch in read_slice(piece)]
    assert pa.Table.from_batches(batches).to_pylist() == [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]


def missing(root: Path) -> str:
    return str(root / "nope.parquet")


def missing_glob(root: Path) -> str:
    return str(root / "*.parquet")


def empty_directory(root: Path) -> str:
    (root / "only").mkdir()
    (root / "only" / "notes.txt").write_text("x")
    return str(root / "only")


def not_parquet(root: Path) -> str:
    (root / "bad.parquet").write_text('{"prompt": "secret text"}\n' * 10)
    return str(root / "bad.parquet")


def empty_file(root: Path) -> str:
    (root / "bad.parquet").touch()
    return str(root / "bad.parquet")


def truncated(root: Path) -> str:
    path = write(root / "bad.parquet", 100)
    path.write_bytes(path.read_bytes()[:-20])
    return str(root)


def only_magic(root: Path) -> str:
    (root / "bad.parquet").write_bytes(b"PAR1")
    return str(root / "bad.parquet")


def corrupt_footer(root: Path) -> str:
    path = write(root / "bad.parquet", 100)
    data = bytearray(path.read_bytes())
    data[-60:-10] = os.urandom(50)
    path.write_bytes(data)
    return str(root / "bad.parquet")


def huge_footer(root: Path) -> str:
    path = write(root / "bad.parquet", 100)
    path.write_bytes(path.read_bytes()[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1")
    return str(root / "bad.parquet")


def no_rows(root: Path) -> str:
    return str(write(root / "bad.parquet", 0))


def two_kinds(root: Path) -> str:
    write(root / "a.parquet")
    (root / "b.jsonl").write_text('{"prompt": "x"}\n')
    return str(root)


def unknown_scheme(root: Path) -> str:
    return "ftp://host/x"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing, "no file or directory .*nope.parquet"),
        (missing_glob, r"No file matches .*\*.parquet"),
        (empty_directory, "no file of data; it holds notes.txt"),
        (not_parquet, "bad.parquet is not a Parquet file"),
        (empty_file, "bad.parquet is empty"),
        (truncated, "bad.parquet is truncated"),
        (only_magic, "bad.parquet is truncated"),
        (corrupt_footer, "bad.parquet is damaged"),
        (huge_footer, "bad.parquet is truncated"),
        (no_rows, "bad.parquet has no rows"),
        (two_kinds, "mixes kinds of files; .*b.jsonl"),
        (unknown_scheme, "ftp://host/x"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path: Path, make: Callable[[Path], str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        inspect(make(tmp_path))
    assert caught.value.exit_code == Exit.USAGE
    assert caught.value.hint
    assert "secret text" not in f"{caught.value}"


def test_footers_of_many_files_are_read_quickly_and_nothing_else(tmp_path: Path) -> None:
    big = pa.table({"prompt": [os.urandom(500).hex() for _ in range(2000)]})
    for i in range(300):
        os.link(write_once(tmp_path / "first.bin", big), tmp_path / f"{i:03d}.parquet")
    started = time.process_time()
    assert inspect(str(tmp_path)).num_rows == 600_000
    assert time.process_time() - started < 10


def write_once(path: Path, table: pa.Table) -> Path:
    if not path.exists():
        pq.write_table(table, path)
    return path


def test_damaged_pages_are_found_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"prompt": [f"text {i}" * 50 for i in range(500)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    at = data.index(b"text 321")
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"a\.parquet is damaged"):
        prompts(path)


def test_pins_are_the_files_own_hashes(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.parquet", 2) for name in "ab"]
    pinned = pin(inspect(str(tmp_path)))
    assert [file.uri for file in pinned] == [str(path) for path in paths]
    assert [file.identity for file in pinned] == [
        f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths
    ]
    check_unchanged(pinned, pin(inspect(str(tmp_path))))


def change(root: Path) -> None:
    write(root / "b.parquet", 2, first=9)


def add(root: Path) -> None:
    write(root / "c.parquet", 2)


def remove(root: Path) -> None:
    (root / "b.parquet").unlink()


@pytest.mark.parametrize(
    ("act", "sentence"),
    [(change, r"b\.parquet has changed"), (add, r"c\.parquet has been added"), (remove, r"b\.parquet is gone")],
)
def test_a_changed_dataset_is_told(tmp_path: Path, act: Callable[[Path], None], sentence: str) -> None:
    write(tmp_path / "a.parquet", 2)
    write(tmp_path / "b.parquet", 2)
    pinned = pin(inspect(str(tmp_path)))
    act(tmp_path)
    with pytest.raises(InputChanged, match=sentence):
        check_unchanged(pinned, pin(inspect(str(tmp_path))))


def test_a_file_that_changes_between_looking_and_reading_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 2)
    dataset = inspect(str(path))
    write(path, 3)
    with pytest.raises(InputChanged, match=r"a\.parquet has changed"):
        list(read_slice(slices(dataset)[0]))
    path.unlink()
    with pytest.raises(InputChanged, match=r"a\.parquet has changed"):
        pin(dataset)


def test_four_thousand_chats(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "chats.parquet")
    dataset = inspect(str(path))
    expected = pq.read_table(path)
    pieces = slices(dataset, 700)
    read = pa.Table.from_batches([batch for piece in pieces for batch in read_slice(piece, ["messages", "custom_id"])])
    assert dataset.num_rows == 4000
    assert len(pieces) == 8
    assert read.equals(expected.select(["messages", "custom_id"]))
