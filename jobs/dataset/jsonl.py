"""JSON lines and JSON arrays as rows, plain or as OpenAI batch requests.

A line or element that is not a JSON object is a row of nulls with a failure, so that it costs one row. Among equal
names in a line the last counts. Blank lines are not rows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from jobs.dataset.foreign import no_lines
from jobs.dataset.formats import Format, format_of
from jobs.dataset.json_array import NotAnArray, elements, is_array
from jobs.dataset.records import Record, Scan
from jobs.dataset.requests import UnsupportedEndpoint, is_request, request_failure, request_row
from jobs.dataset.sources import Source
from jobs.dataset.streams import open_text, skip_to
from jobs.errors import InvalidInput
from jobs.values.cells import RowFailure, is_encodable, is_shallow
from schemas.codes import RowError

_MAX_LINE_BYTES = 64 * 2**20
_MAX_DEPTH = 500


def scan(source: Source) -> Scan:
    """Count the rows and find the columns of a file.

    Raises:
        InvalidInput: no line is a JSON object, there are too many columns, or an array is damaged.
        StoreError: S3 cannot be reached or refuses.
    """
    found, parsed, first_failure = Scan(source), False, None
    with open_text(source) as file:
        head = file.peek(64)[:64]
        if _may_be_array(source) and is_array(head):
            found.layout = "array"
        for record in _records(source, file, 0, None, array=found.layout == "array"):
            parsed, first_failure = parsed or record.failure is None, first_failure or record.failure
            found.add(record)
    found.end()
    if found.rows and not parsed:
        if isinstance(first_failure, UnsupportedEndpoint):
            what = first_failure.message.removeprefix("url: ")
            raise InvalidInput(f"{source.uri} cannot be answered: {what}.", first_failure.hint)
        if found.kinds:
            return found
        raise _not_lines(source, head)
    return found


def records(source: Source, start: int, end: int) -> Iterator[Record]:
    """Yield the rows of a byte range that ends after a row.

    Raises:
        StoreError: S3 cannot be reached or refuses.
    """
    with open_text(source) as file:
        yield from _records(source, file, start, end, array=source.layout == "array")


def _may_be_array(source: Source) -> bool:
    """Return whether the name leaves open that the file is an array."""
    return format_of(source.uri) is Format.JSON


def _not_lines(source: Source, head: bytes) -> InvalidInput:
    if (known := no_lines(head, source.uri)) is not None:
        return InvalidInput(f"{source.uri} is not JSON lines: it {known[0]}.", known[1])
    if head.lstrip().startswith(b"{"):
        return InvalidInput(
            f"{source.uri} is not JSON lines: no line is a whole JSON object.",
            "If it is one object that holds the rows, write them as an array into a file that ends in .json: "
            "jq '.NAME' FILE > ROWS.json",
        )
    return InvalidInput(f"{source.uri} is not JSON lines: no line is a JSON object.", "Write one JSON object per line.")


def _records(source: Source, file: io.BufferedReader, start: int, end: int | None, *, array: bool) -> Iterator[Record]:
    position = skip_to(file, start, seekable=source.is_seekable)
    try:
        for text, after in elements(file, position, _MAX_LINE_BYTES) if array else _lines(file, position, end):
            yield _record(text, after)
            if array and after == end:
                return
    except NotAnArray as error:
        raise InvalidInput(f"{source.uri} is not a JSON array: it {error}.", "Write the file again.") from error


def _record(text: bytes, after: int) -> Record:
    values, failure = _parse(text)
    return Record(values=values, failure=failure, end=after, size=len(text))


def _lines(file: io.BufferedReader, position: int, end: int | None) -> Iterator[tuple[bytes, int]]:
    """Yield each line that is not blank, with the offset after it. An over-long line is cut, so it is not JSON."""
    while end is None or position < end:
        line = file.readline(_MAX_LINE_BYTES)
        position += len(line)
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE_BYTES)
            position += len(rest)
        if not line:
            return
        if line.strip():
            yield line, position


def _parse(line: bytes) -> tuple[dict[str, Any], RowFailure | None]:
    """Parse a line into a row, with a failure if something is wrong."""
    if len(line) >= _MAX_LINE_BYTES and not line.endswith(b"\n"):
        return {}, RowFailure(code=RowError.ROW_TOO_LARGE, message=f"the line has more than {_MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError:
        return {}, RowFailure(code=RowError.INVALID_TEXT, message="the line is not valid UTF-8")
    except (ValueError, RecursionError):
        return {}, RowFailure(code=RowError.INVALID_MESSAGES, message="the line is not JSON")
    if not isinstance(row, dict):
        return {}, RowFailure(code=RowError.INVALID_MESSAGES, message="the line is not a JSON object")
    # Python may read deeper than it can write.
    if line.count(b"[") + line.count(b"{") > _MAX_DEPTH and not is_shallow(row, _MAX_DEPTH):
        return {}, RowFailure(
            code=RowError.INVALID_MESSAGES, message=f"the line is nested over {_MAX_DEPTH} levels deep"
        )
    if not all(map(is_encodable, row)):
        return {}, RowFailure(code=RowError.INVALID_TEXT, message="a name in the line holds a lone surrogate")
    if not is_request(row):
        return row, None
    failure = request_failure(row)
    if isinstance(failure, UnsupportedEndpoint):
        return {"custom_id": row.get("custom_id")}, failure
    return request_row(row), failure
