"""The elements of a JSON array, cut out of a stream without parsing them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
"""A string as a whole, or what opens, closes or separates. A quote alone opens a string that has not ended yet."""

_LEAST_READ_BYTES = 2**20


class NotAnArray(ValueError):
    """The bytes are not one JSON array. The message is a predicate that follows the file's name."""


def is_array(head: bytes) -> bool:
    """Return whether text that starts so is a JSON array rather than JSON lines."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def elements(file: io.BufferedReader, position: int, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield each element's bytes, with the offset after it and its comma.

    Args:
        position: where the stream is: 0, or the offset after an element.
        max_bytes: most bytes of an element.

    Raises:
        NotAnArray: the text ends early, has more after the array, or has an element that is empty or too large.
    """
    data, at = b"", 0  # `position` is the offset of data[0]; `at` is where the next token is looked for
    depth, begin = (0, 0) if position == 0 else (1, 0)
    step, some = _LEAST_READ_BYTES, position > 0
    while True:
        more = file.read(step)
        data += more
        for token in _TOKEN.finditer(data, at):
            text = token.group()
            if text == b'"':
                at = token.start()
                break
            at = token.end()
            if depth == 0:
                if text != b"[" or data[: token.start()].removeprefix(b"\xef\xbb\xbf").strip():
                    raise NotAnArray("does not begin with its array")
                depth, begin = 1, at
            elif text in (b"[", b"{"):
                depth += 1
            elif depth > 1 and text in (b"]", b"}"):
                depth -= 1
            elif depth == 1 and text in (b",", b"]"):
                element = data[begin : token.start()].strip()
                if element:
                    yield element, position + at
                elif some or text == b",":
                    raise NotAnArray("has a comma without an element")
                some = text == b","
                begin = at
                if text == b"]":
                    if data[at:].strip() or _has_more(file):
                        raise NotAnArray("goes on after the end of its array")
                    return
            elif text == b"}":
                raise NotAnArray("has a brace that nothing opened")
        if not more:
            raise NotAnArray("ends before its array does")
        if len(data) - begin > max_bytes:
            raise NotAnArray(f"has an element of more than {max_bytes:,} bytes")
        # A string that goes on past the data is looked at again: with twice the data each time, at most twice in all.
        step = max(_LEAST_READ_BYTES, len(data) - begin)
        data, position, at, begin = data[begin:], position + begin, max(0, at - begin), 0


def _has_more(file: io.BufferedReader) -> bool:
    while data := file.read(_LEAST_READ_BYTES):
        if data.strip():
            return True
    return False
