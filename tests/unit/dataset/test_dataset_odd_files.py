"""Files that are sound and unusual, or foreign: read right, or refused with what they are."""

from __future__ import annotations

import base64
import bz2
import datetime as dt
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from jobs.dataset import failures_of, footer, inspect, read_slice, resolve_columns, slices
from jobs.dataset.bounding import bounded
from jobs.dataset.failures import with_failures
from jobs.errors import InvalidInput
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.spec import InputSpec


def rows_of(uri: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    return [row for piece in slices(inspect(str(uri))) for b in read_slice(piece, columns) for row in b.to_pylist()]


def use(uri: Path, **options: Any) -> None:
    resolve_columns(inspect(str(uri)).schema, InputSpec.model_validate({"uri": str(uri), **options}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odd.parquet"


# -- INT96 --------------------------------------------------------------------------------------


def naive(*parts: int) -> dt.datetime:
    return dt.datetime(*parts)  # type: ignore[arg-type, misc]  # noqa: DTZ001


MOMENTS = [naive(9999, 12, 31), naive(1, 1, 1), naive(2024, 2, 29, 1, 2, 3, 456789), None, naive(1677, 1, 1)]


def test_old_timestamps_out_of_the_range_of_nanoseconds_keep_their_value(path: Path) -> None:
    moments = pa.array(MOMENTS, pa.timestamp("us"))
    table = pa.table(
        {
            "at": moments,
            "lists": pa.ListArray.from_arrays(list(range(len(MOMENTS) + 1)), moments),
            "structs": pa.StructArray.from_arrays([moments], ["at"]),
            "maps": pa.array([[("k", at)] for at in MOMENTS], pa.map_(pa.string(), pa.timestamp("us"))),
            "n": range(len(MOMENTS)),
        }
    )
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, row_group_size=2)
    assert inspect(str(path)).schema.field("at").type == pa.timestamp("us")
    assert rows_of(path) == [
        {"at": at, "lists": [at], "structs": {"at": at}, "maps": [("k", at)], "n": n} for n, at in enumerate(MOMENTS)
    ]
    assert [row["at"] for row in rows_of(path, ["at"])] == MOMENTS


def test_an_old_timestamp_that_no_unit_holds_costs_its_row(path: Path) -> None:
    far = b"\0" * 8 + (2**31 - 1).to_bytes(4, "little")
    fine = (1_000).to_bytes(8, "little") + (2_440_588 + 1).to_bytes(4, "little")
    nano = (1_001).to_bytes(8, "little") + (2_440_588 + 1).to_bytes(4, "little")
    write_int96(path, [fine, nano, far, fine])
    [batch] = [batch for piece in slices(inspect(str(path))) for batch in read_slice(piece)]
    assert {index: fault.message.rpartition(") ")[2] for index, fault in failures_of(batch).items()} == {
        1: "has more than microseconds",
        2: "lies out of the range of microseconds",
    }
    assert batch["at"][0].as_py() == batch["at"][3].as_py() == naive(1970, 1, 2, 0, 0, 0, 1)


def test_the_rows_of_a_large_batch_that_is_cut_keep_their_faults() -> None:
    """Of a batch over 64 MiB, each piece says what is wrong with its own rows."""
    batch = pa.record_batch({"prompt": ["x" * 15 * 2**20] * 9, "n": range(9)})
    fault = RowFailure(code=RowError.TEMPLATE_ERROR, message="wrong")
    pieces = list(bounded([with_failures(batch, dict.fromkeys((1, 5, 8), fault))], 1024))
    assert len(pieces) > 1
    assert [piece["n"][index].as_py() for piece in pieces for index in failures_of(piece)] == [1, 5, 8]


def write_int96(path: Path, values: list[bytes]) -> None:
    """Values in the twelve bytes of INT96, whatever they say."""
    moments = pa.array([10**9 + n for n in range(len(values))], pa.timestamp("ns"))
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"at": moments}), path, use_deprecated_int96_timestamps=True, **plain)
    data = path.read_bytes()
    first = (10**9).to_bytes(8, "little") + (2_440_588).to_bytes(4, "little")
    start = data.index(first)
    path.write_bytes(data[:start] + b"".join(values) + data[start + 12 * len(values) :])


# -- columns that Arrow cannot read ---------------------------------------------------------------


def int128_file(path: Path) -> None:
    """As polars writes whole numbers of 128 bits: bytes to Parquet, a type to Arrow that it does not know."""
    said = pa.schema([("prompt", pa.string()), ("odd", pa.int64())]).serialize().to_pybytes()
    said = said.replace((64).to_bytes(4, "little"), (128).to_bytes(4, "little"))
    table = pa.table({"prompt": ["a", "b"], "odd": pa.array([b"x" * 16, None], pa.binary(16))})
    pq.write_table(table, path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    found = footer.Footer(data[-8 - length : -8])
    pairs = found._root[5][1][1]
    pairs[0][2] = (8, base64.b64encode(said))
    rewrite(path, data[: -8 - length], found.only(found.names))


def unknown_physical_type(path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"], "odd": [1, 2]}), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    found = footer.Footer(data[-8 - length : -8])
    found._elements()[2][1] = (5, 2 * 77)
    rewrite(path, data[: -8 - length], found.only(found.names))


def map_with_optional_keys(path: Path) -> None:
    odd = pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"prompt": ["a", "b"], "odd": odd}), path, store_schema=False)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    found = footer.Footer(data[-8 - length : -8])
    [key] = [element for element in found._elements() if element[4][1] == b"key"]
    key[3] = (5, 2)
    rewrite(path, data[: -8 - length], found.only(found.names))


def rewrite(path: Path, pages: bytes, written: bytes) -> None:
    path.write_bytes(pages + written + len(written).to_bytes(4, "little") + b"PAR1")


def interval(path: Path) -> None:
    """As DuckDB writes it; Arrow itself would take it for bytes."""
    pq.write_table(pa.table({"prompt": ["a", "b"], "odd": pa.array([b"x" * 12, None], pa.binary(12))}), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    found = footer.Footer(data[-8 - length : -8])
    found._elements()[2][6] = (5, 2 * 21)
    rewrite(path, data[: -8 - length], found.only(found.names))


def test_an_interval_matters_to_those_who_use_it(path: Path) -> None:
    interval(path)
    use(path)
    assert rows_of(path, ["prompt"]) == [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(InvalidInput, match=r"'odd' of .* holds values of Parquet's type INTERVAL") as caught:
        use(path, keep=("odd",))
    assert "text" in caught.value.hint


@pytest.mark.parametrize("make", [int128_file, unknown_physical_type, map_with_optional_keys])
def test_a_column_that_arrow_cannot_read_matters_to_those_who_use_it(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises((pa.ArrowException, OSError)):
        pq.ParquetFile(path)
    use(path)
    assert rows_of(path, ["prompt"]) == [{"prompt": "a"}, {"prompt": "b"}]
    for options in ({"keep": ("odd",)}, {"prompt_column": "odd"}, {"template": "{{ prompt }} {{ odd }}"}):
        with pytest.raises(
            InvalidInput, match=r"'odd' of .*odd\.parquet is of a type that Arrow cannot read"
        ) as caught:
            use(path, **options)
        assert caught.value.hint


def test_a_footer_is_written_as_it_was_read(path: Path) -> None:
    columns = {f"c{n}": pa.array([[{"a": n, "b": "x"}], None]) for n in range(20)}
    pq.write_table(pa.table({"prompt": ["a", None], **columns}), path, row_group_size=1)
    data = path.read_bytes()
    said = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    found = footer.Footer(said)
    assert found.names == ("prompt", *columns)
    assert found.only(found.names) == said
    assert not found.encrypted
    rewrite(path, data[: -8 - len(said)], found.only({"c3", "c17"}))
    assert pq.read_table(path).to_pydict() == {"c3": columns["c3"].to_pylist(), "c17": columns["c17"].to_pylist()}


@pytest.mark.parametrize("data", [b"", b"\x19", b"\x19\xfc\xff\xff\xff\x7f", b"\x1c" * 100, b"\x19\x19" * 5000, b"\0"])
def test_bytes_that_are_no_footer_are_refused(data: bytes) -> None:
    with pytest.raises(footer.NotAFooter):
        footer.Footer(data)


# -- encryption -----------------------------------------------------------------------------------


def encrypted(path: Path, *, plaintext_footer: bool) -> None:
    import pyarrow.parquet.encryption as pe

    class Keys(pe.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return base64.b64encode(key_bytes)

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return base64.b64decode(wrapped_key)

    properties = pe.CryptoFactory(lambda _: Keys()).file_encryption_properties(
        pe.KmsConnectionConfig(),
        pe.EncryptionConfiguration(
            footer_key="f", column_keys={"k": ["secret"]}, plaintext_footer=plaintext_footer, double_wrapping=False
        ),
    )
    table = pa.table({"prompt": ["a", "b"], "secret": ["s", "t"]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_an_encrypted_file_is_called_so(path: Path) -> None:
    encrypted(path, plaintext_footer=False)
    with pytest.raises(InvalidInput, match=r"odd\.parquet is an encrypted Parquet file") as caught:
        inspect(str(path))
    assert "Decrypt" in caught.value.hint


def test_an_encrypted_column_matters_to_those_who_use_it(path: Path) -> None:
    encrypted(path, plaintext_footer=True)
    use(path)
    assert rows_of(path, ["prompt"]) == [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(InvalidInput, match=r"'secret' of .*odd\.parquet is encrypted") as caught:
        use(path, keep=("secret",))
    assert "Decrypt" in caught.value.hint


# -- shapes that other writers give ---------------------------------------------------------------


def test_a_footer_that_counts_no_rows_over_groups_that_have_some(path: Path) -> None:
    pq.write_table(pa.table({"prompt": [f"{n}" for n in range(6)]}), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    found = footer.Footer(data[-8 - length : -8])
    for count, readable in ((0, True), (5, False)):
        found._root[3] = (6, 2 * count)
        rewrite(path, data[: -8 - length], found.only(found.names))
        if readable:
            assert [row["prompt"] for row in rows_of(path)] == list("012345")
        else:
            with pytest.raises(InvalidInput, match="damaged"):
                inspect(str(path))


def test_dictionaries_inside_of_messages_over_several_row_groups(path: Path) -> None:
    role = pa.dictionary(pa.int8(), pa.string())
    type_ = pa.large_list(pa.struct([("role", role), ("content", pa.large_string())]))
    chats = [[{"role": "system" if n % 3 else "user", "content": f"{n}"}] for n in range(100)]
    pq.write_table(pa.table({"messages": pa.array(chats, type_)}), path, row_group_size=7)
    with pytest.raises(pa.ArrowException):
        list(pq.ParquetFile(path).iter_batches(64))
    use(path)
    assert [row["messages"] for row in rows_of(path)] == chats


# -- files of other formats -----------------------------------------------------------------------

LINE = b'{"prompt": "secret text"}\n'


def feather(path: Path) -> None:
    pyarrow.feather.write_feather(pa.table({"prompt": ["secret text"]}), str(path))


def orc(path: Path) -> None:
    pyarrow.orc.write_table(pa.table({"prompt": ["secret text"]}), str(path))


FOREIGN: dict[str, tuple[str, bytes | Callable[[Path], None], str, str]] = {
    "gzip by no name": ("a.gz", gzip.compress(LINE), "compressed with gzip", "gunzip a.gz"),
    "gzip by another name": ("a.parquet", gzip.compress(LINE), "compressed with gzip", "gunzip"),
    "gzip named lines": ("a.jsonl", gzip.compress(LINE), "compressed with gzip", "gunzip"),
    "zstd": ("a.zst", b"\x28\xb5\x2f\xfd" + LINE, "compressed with zstd", "unzstd"),
    "bzip2": ("a.bz2", bz2.compress(LINE), "compressed with bzip2", "bunzip2"),
    "xz": ("a.xz", lzma.compress(LINE), "compressed with xz", "unxz"),
    "zip": ("a.xlsx", b"PK\x03\x04" + LINE, "ZIP archive or a spreadsheet", "CSV"),
    "feather": ("a.data", feather, "Arrow", "ending in .arrow: rename it"),
    "parquet named arrow": ("a.arrow", b"PAR1\0\1\2\3", "is not an Arrow file", "Parquet"),
    "orc": ("a.orc", orc, "ORC", "python -c 'import pyarrow.orc"),
    "avro": ("a.avro", b"Obj\x01" + LINE, "Avro", "read_avro"),
    "csv by no name": ("a.txt", b"prompt,n\nsecret text,1\n", "not a Parquet file", ".csv"),
    "parquet named csv": ("a.csv", b"PAR1\0\1\2", "is a Parquet file", "Rename"),
    "one json object": ("a.json", b'{\n"data": [{"prompt": "secret text"}]\n}', "no line is a whole JSON object", "jq"),
    "json lines by no name": ("a.txt", LINE, "looks like JSON", "rename it"),
    "json array": ("a.txt", b'[\n{"prompt": "secret text"}]', "JSON array", "ending in .json: rename it"),
    "sqlite": ("a.db", b"SQLite format 3\0", "SQLite", "Parquet"),
    "lfs": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", "git lfs pull"),
    "error page": ("a.parquet", b"<?xml version='1.0'?><Error/>", "server's error", "again"),
    "parquet named lines": ("a.jsonl", b"PAR1\0\1\2", "is a Parquet file", "Rename"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_another_format_is_called_what_it_is(tmp_path: Path, case: str) -> None:
    name, content, what, how = FOREIGN[case]
    path = tmp_path / name
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(InvalidInput, match=what) as caught:
        inspect(str(path))
    assert how in caught.value.hint
    assert name in str(caught.value)
    assert "secret text" not in f"{caught.value}{caught.value.hint}"


def test_a_directory_of_other_files_says_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.orc.gz").write_bytes(gzip.compress(LINE))
    with pytest.raises(InvalidInput, match=r"it holds a\.orc\.gz, which is compressed with gzip") as caught:
        inspect(str(tmp_path))
    assert "gunzip" in caught.value.hint


def test_the_advice_for_an_orc_file_works(tmp_path: Path) -> None:
    import subprocess
    import sys

    orc(tmp_path / "it's $HOME.orc")
    with pytest.raises(InvalidInput) as caught:
        inspect(str(tmp_path / "it's $HOME.orc"))
    command = caught.value.hint.partition(": ")[2].replace("python", sys.executable, 1)
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert rows_of(tmp_path / "it's $HOME.parquet") == [{"prompt": "secret text"}]
