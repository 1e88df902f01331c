r"""CSV and TSV as rows of text.

The delimiter and the encoding are taken from the file only where it leaves no doubt: one delimiter cuts the header, and
every line has as many fields; the bytes have the mark of an encoding, or all of them are UTF-8. Else the file is
refused, and the user tells them. Quoting is that of RFC 4180: a quote inside quotes is doubled. Where a backslash may
escape quotes as well, both readings are tried, and the file is refused if both fit.

Every value is text, an empty field is null. Blank lines are not rows, and columns without a name are left out.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.dataset.foreign import no_text
from jobs.dataset.formats import CsvLayout
from jobs.dataset.records import Record, Scan
from jobs.dataset.sources import Source
from jobs.dataset.streams import is_utf8, open_text, skip_to
from jobs.errors import InvalidInput
from jobs.text import printable
from jobs.values.cells import RowFailure, is_encodable
from schemas.codes import RowError

_DELIMITERS = (",", ";", "\t", "|")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MAX_RECORD_BYTES = 64 * 2**20
_HEADER_LINES, _HEADER_BYTES = 100, 2**20
_EXCELS_OWN = re.compile(r"sep=[!#-/:-@\[-`{-~\t]", re.IGNORECASE)
_SHOWN = {"\t": "tab"}


def scan(source: Source) -> Scan:
    """Count the rows of a file and find its columns.

    Raises:
        InvalidInput: it is damaged, or leaves open how it is to be read; names the line and the option that tells it.
        StoreError: S3 cannot be reached or refuses.
    """
    layout, escapes = _layout(source), _Escapes()
    found = _scanned(source, layout, escapes)
    if escapes.seen and source.csv.escape is None:
        try:
            _scanned(source, replace(layout, escape="\\", told=False), _Escapes())
        except InvalidInput:
            return found
        raise _unclear(
            source,
            "has backslashes before quotes, which may be text or escape them",
            "--csv-escape '\\' if they escape, --csv-escape none if they are text",
        )
    return found


def records(source: Source, start: int, end: int) -> Iterator[Record]:
    """Yield the rows of a byte range that ends after a row."""
    assert isinstance(source.layout, CsvLayout), "set by its scan"
    yield from _records(source, source.layout, _Escapes(), start, end)


@dataclass(slots=True)
class _Escapes:
    """Whether a backslash before a quote was seen."""

    seen: bool = False


def _scanned(source: Source, layout: CsvLayout, escapes: _Escapes) -> Scan:
    found = Scan(source, layout)
    found.kinds = {name: {"string"} for name in layout.names if name}
    for record in _records(source, layout, escapes, 0, None):
        found.add(record)
    found.end()
    return found


# -- how the file is to be read -----------------------------------------------------------------


def _layout(source: Source) -> CsvLayout:
    with open_text(source) as file:
        head = file.read(64)
    if (known := no_text(head)) is not None:
        raise InvalidInput(f"{source.uri} is not CSV: it {known[0]}.", known[1])
    mark, marked = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", None))
    told = source.csv.encoding
    if marked and told and codecs.lookup(told).name.split("-")[:2] != marked.split("-"):
        raise InvalidInput(
            f"{source.uri} is not text in {told}: it begins with the mark of {marked.upper()}.", "Drop --csv-encoding."
        )
    encoding = marked or told or "utf-8"
    start = len(mark) if is_utf8(encoding) else 0
    with open_text(source, encoding) as file:
        skip_to(file, start, seekable=False)
        lines = _first_lines(source, file)
    delimiter = source.csv.delimiter or ("\t" if ".tsv" in source.uri.lower()[-8:] else None)
    first = lines[0].rstrip("\r\n") if lines else ""
    if delimiter is None and _EXCELS_OWN.fullmatch(first):  # as Excel writes it
        delimiter, start = first[4], start + len(lines.pop(0).encode())
    is_told = delimiter is not None
    delimiter, names = _header(source, lines, delimiter)
    if odd := [name for name in names if not is_encodable(name)]:
        raise _unclear(source, f"has a header that is not UTF-8, near {printable(odd[0])}", "--csv-encoding")
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise InvalidInput(f"{source.uri} has two columns named {twice[0]!r}.", "Rename one of them.")
    return CsvLayout(
        delimiter=delimiter,
        encoding=encoding,
        escape=source.csv.escape or None,
        names=names,
        start=start,
        told=is_told,
    )


def _first_lines(source: Source, file: io.BufferedReader) -> list[str]:
    """Read lines for the header, without one that is longer than any header."""
    lines: list[str] = []
    while len(lines) < _HEADER_LINES and (raw := file.readline(_HEADER_BYTES)):
        if len(raw) == _HEADER_BYTES and not raw.endswith(b"\n"):  # cut, perhaps inside a character
            break
        lines.append(_text(source, raw, len(lines) + 1))
    if not lines and raw:
        _check_line_ends(source, raw)
        raise InvalidInput(
            f"{source.uri} has a first line of more than {_HEADER_BYTES:,} bytes, which is no header.",
            "Begin the file with a line that names its columns.",
        )
    return lines


def _check_line_ends(source: Source, first: bytes) -> None:
    if b"\r" in first.rstrip(b"\r\n"):
        raise InvalidInput(
            f"{source.uri} ends its lines with carriage returns alone, as old programs do.",
            "Write it again with line feeds: tr '\\r' '\\n' < OLD.csv > NEW.csv",
        )


def _header(source: Source, lines: Sequence[str], told: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the delimiter, and the names in the first record."""
    cuts: dict[str, tuple[str, ...]] = {}
    for delimiter in (told,) if told else _DELIMITERS:
        try:
            records = _reader(iter(lines), delimiter, source.csv.escape or None)
            record: list[str] = next(filter(None, records), [])
        except csv.Error:
            continue
        cuts[delimiter] = tuple(name.strip() for name in record)
    if not cuts:
        _check_line_ends(source, lines[0].encode(errors="surrogateescape"))
        raise _unclear(source, "has a first line that cannot be cut into names", "--csv-delimiter and --csv-escape")
    several = [delimiter for delimiter, names in cuts.items() if len(names) > 1]
    if len(several) > 1:
        shown = " or ".join(_SHOWN.get(each, repr(each)) for each in several)
        raise _unclear(source, f"has a first line that {shown} may delimit", f"--csv-delimiter {several[-1]!r}")
    delimiter = several[0] if several else next(iter(cuts))
    return delimiter, cuts[delimiter]


# -- rows ---------------------------------------------------------------------------------------


def _records(source: Source, layout: CsvLayout, escapes: _Escapes, start: int, end: int | None) -> Iterator[Record]:
    with open_text(source, layout.encoding) as file:
        at = skip_to(file, start or layout.start, seekable=source.is_seekable and is_utf8(layout.encoding))
        lines = _Lines(source, file, at, escapes)
        reader = _reader(iter(lines), layout.delimiter, layout.escape)
        is_header = start == 0
        while end is None or lines.position < end:
            lines.begin()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                why = "ends inside quotes" if "unexpected end" in str(error) else "has a quote that does not fit"
                raise _unclear(
                    source, f"{why} near line {lines.number:,}", "--csv-escape '\\' if backslashes escape quotes"
                ) from error
            if fields and not is_header:
                yield _record(source, layout, fields, lines)
            is_header = is_header and not fields


def _record(source: Source, layout: CsvLayout, fields: list[str], lines: _Lines) -> Record:
    size = lines.position - lines.begun
    if len(fields) != len(layout.names):
        what = f"has {len(fields)} fields where the header has {len(layout.names)}"
        if not layout.told:
            delimiter = _SHOWN.get(layout.delimiter, repr(layout.delimiter))
            raise _unclear(
                source,
                f"{what}, near line {lines.number:,}, with {delimiter} as delimiter",
                f"--csv-delimiter {layout.delimiter!r}, if that is it: then such a line costs only its row",
            )
        failure = RowFailure(code=RowError.INVALID_MESSAGES, message=f"the line {what}")
        return Record(values={}, failure=failure, end=lines.position, size=size)
    values = {name: _value(name, text) for name, text in zip(layout.names, fields, strict=True) if name}
    return Record(values=values, end=lines.position, size=size)


def _value(name: str, text: str) -> Any:
    if name == "max_tokens" and text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    return text or None


class _Lines:
    """The lines of a file, as the reader of records takes them.

    Attributes:
        position: offset after the last line that was taken.
        begun: offset of the record that is being read.
        number: number of the last line, from 1; only in a pass from the beginning.
    """

    def __init__(self, source: Source, file: io.BufferedReader, position: int, escapes: _Escapes) -> None:
        self._source, self._file, self._escapes = source, file, escapes
        self.position = self.begun = position
        self.number = 0

    def begin(self) -> None:
        """Begin a record."""
        self.begun = self.position

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(_MAX_RECORD_BYTES + 1):
            self.position += len(raw)
            self.number += 1
            if self.position - self.begun > _MAX_RECORD_BYTES:
                raise InvalidInput(
                    f"{self._source.uri} has a row of more than {_MAX_RECORD_BYTES:,} bytes that ends near line "
                    f"{self.number:,}; a quote before it may lack its end.",
                    "Correct the quotes, or write the file as Parquet.",
                )
            self._escapes.seen = self._escapes.seen or b'\\"' in raw
            yield _text(self._source, raw, self.number)


def _text(source: Source, raw: bytes, number: int) -> str:
    if b"\0" in raw:
        raise _unclear(source, f"holds a zero byte in line {number:,}, so it is not UTF-8", "--csv-encoding utf-16le")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if source.csv.encoding is not None:
            return raw.decode(errors="surrogateescape")  # costs its row later
        raise _unclear(
            source,
            f"is not UTF-8: line {number:,} is the first that is not",
            "--csv-encoding cp1252 for files of Western European spreadsheets, or another; --csv-encoding utf-8 makes "
            "such lines error rows",
        ) from error


def _reader(lines: Iterator[str], delimiter: str, escape: str | None) -> Any:
    csv.field_size_limit(_MAX_RECORD_BYTES + 1)
    return csv.reader(lines, delimiter=delimiter, escapechar=escape, doublequote=True, strict=True)


def _unclear(source: Source, what: str, option: str) -> InvalidInput:
    return InvalidInput(f"{source.uri} {what}.", f"Tell how it is to be read: {option}.")
