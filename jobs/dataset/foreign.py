"""Recognition of files that are not what they should be, with hints to name or convert them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable

from jobs.dataset.formats import ENDINGS

_Hint = Callable[[str], str]
"""Function from a file's name to a hint on what to do with the file."""


def _say(text: str) -> _Hint:
    return lambda name: text


def _unpack(tool: str) -> _Hint:
    return lambda name: (
        f"Unpack it first: {tool} {shlex.quote(name)}. Text that is compressed with gzip or zstd is read as it is from "
        "names that end in .jsonl.gz, .csv.gz, .jsonl.zst and so on."
    )


def _python(read: str) -> _Hint:
    """Build a hint with a command that converts the file to Parquet with Arrow."""

    def hint(name: str) -> str:
        target = json.dumps(f"{os.path.splitext(name)[0]}.parquet", ensure_ascii=False)
        source = json.dumps(name, ensure_ascii=False)
        code = f"import {read.rpartition('.')[0]}, pyarrow.parquet as p; p.write_table({read}({source}), {target})"
        return f"Write it as Parquet: python -c {shlex.quote(code)}"

    return hint


_array = _say("JSON arrays are read from names ending in .json: rename it.")
_OTHER = _say(f"Convert it to Parquet, or rename it if it is text: names of data end in {ENDINGS}.")
_RENAME_PARQUET = "Rename it: Parquet is read from names ending in .parquet."
_RENAME = _say("JSON lines are read from names ending in .jsonl: rename it.")
_TABLE = _say("Write the table that you want as Parquet.")
_AGAIN = _say("Fetch the file again.")
_UTF8 = _say("Write it in UTF-8.")
_ARROW = _say("Arrow files are read from names ending in .arrow: rename it.")
_FEATHER, _ORC = map(_python, ("pyarrow.feather.read_table", "pyarrow.orc.read_table"))

_MAGICS: tuple[tuple[bytes, str, _Hint], ...] = (
    (b"\x1f\x8b", "is compressed with gzip", _unpack("gunzip")),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", _unpack("unzstd")),
    (b"BZh", "is compressed with bzip2", _unpack("bunzip2")),
    (b"\xfd7zXZ\0", "is compressed with xz", _unpack("unxz")),
    (b"\x04\x22\x4d\x18", "is compressed with lz4", _unpack("unlz4")),
    (b"\xff\x06\0\0sNaPpY", "is compressed with snappy", _unpack("snzip -d")),
    (
        b"PK\x03\x04",
        "is a ZIP archive or a spreadsheet",
        _say("Unpack it, or save the sheet as CSV."),
    ),
    (b"ARROW1", "is an Arrow (Feather) file", _ARROW),
    (b"FEA1", "is an old Feather file", _FEATHER),
    (b"\xff\xff\xff\xff", "is an Arrow stream", _ARROW),
    (b"Obj\x01", "is an Avro file", _say("Write it as Parquet, for example with DuckDB's read_avro.")),
    (b"ORC", "is an ORC file", _ORC),
    (b"SQLite format 3\0", "is an SQLite database", _TABLE),
    (b"\x89HDF", "is an HDF5 file", _TABLE),
    (b"\x93NUMPY", "is a NumPy array", _OTHER),
    (b"\x80", "looks like a Python pickle", _say("Write the data frame in it as Parquet: frame.to_parquet(…).")),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", _say("Fetch the file: git lfs pull")),
    (b"<?xml", "is XML, perhaps a server's error in place of the file", _AGAIN),
    (b"<!DOCTYPE", "is a web page, perhaps a server's error in place of the file", _AGAIN),
    (b"<html", "is a web page, perhaps a server's error in place of the file", _AGAIN),
    (b"\xff\xfe", "is text in UTF-16", _UTF8),
    (b"\xfe\xff", "is text in UTF-16", _UTF8),
)

_NAMES: dict[str, tuple[str, _Hint]] = {
    ".xlsx": ("is a spreadsheet by its name", _say("Save the sheet as CSV.")),
    ".avro": ("is an Avro file by its name", _say("Write it as Parquet, for example with DuckDB's read_avro.")),
    ".orc": ("is an ORC file by its name", _ORC),
    ".lance": ("is a Lance file by its name", _say("Write its table as Parquet: lance.dataset(…).to_table().")),
    ".gz": ("is compressed with gzip by its name", _unpack("gunzip")),
    ".zst": ("is compressed with zstd by its name", _unpack("unzstd")),
    ".bz2": ("is compressed with bzip2 by its name", _unpack("bunzip2")),
    ".xz": ("is compressed with xz by its name", _unpack("unxz")),
    ".lz4": ("is compressed with lz4 by its name", _unpack("unlz4")),
    ".zip": ("is a ZIP archive by its name", _say("Unpack it.")),
    ".tar": ("is a tar archive by its name", _say("Unpack it.")),
}


def foreign(head: bytes, uri: str) -> tuple[str, str]:
    """Return what a non-Parquet file is by its first bytes, as a predicate to follow its name, and what to do."""
    name = os.path.basename(uri)
    if not head:
        return "is empty", _OTHER(name)
    what, how = _of_bytes(head) or _of_name(name) or _of_text(head)
    return f"is not a Parquet file{what and ': it '}{what}", how(name)


def no_lines(head: bytes, uri: str) -> tuple[str, str] | None:
    """Return what a file named like JSON lines is by its first bytes, and what to do; None if it may be text."""
    if head.startswith((b"PAR1", b"PARE")):
        return "is a Parquet file", _RENAME_PARQUET
    known = _of_bytes(head)
    return None if known is None else (known[0], known[1](os.path.basename(uri)))


def no_text(head: bytes) -> tuple[str, str] | None:
    """Return what a file named like text is by its first bytes, and what to do; None if it may be text of any kind."""
    return None if head.startswith((b"\xff\xfe", b"\xfe\xff")) else no_lines(head, "FILE")


def of_name(uri: str) -> tuple[str, str] | None:
    """Return what a file is by its name, and what to do; None if the name says nothing."""
    name = os.path.basename(uri)
    known = _of_name(name)
    return None if known is None else (known[0], known[1](name))


def _of_bytes(head: bytes) -> tuple[str, _Hint] | None:
    if head[8:12] == b"DUCK":
        return "is a DuckDB database", _TABLE
    return next(((what, how) for magic, what, how in _MAGICS if head.startswith(magic)), None)


def _of_name(name: str) -> tuple[str, _Hint] | None:
    return _NAMES.get(os.path.splitext(name.lower())[1])


def _of_text(head: bytes) -> tuple[str, _Hint]:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{"):
        return "looks like JSON", _RENAME
    return ("looks like a JSON array", _array) if text.startswith(b"[") else ("", _OTHER)
