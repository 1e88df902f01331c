"""Metering of template work, in characters: a row passes or fails alike on every machine, however fast.

An operation (an iteration, a call, a filter, an operator) counts as 64 characters and a list element as 16; operations
that make much of little, such as `center(1000000000)`, are counted before they run. So one budget bounds the time and
the memory of a row, whatever its template nests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

OPERATION, ELEMENT = 64, 16
LEAST_BUDGET = 64 * 2**20
"""Work budget in characters that every row has at least: a second or two."""

MAX_DEPTH = 64
"""Most levels of nesting of a value."""

MAX_INT_BITS = 2**13
"""Most bits of a whole number: Python refuses to print much larger ones."""

_WIDE = frozenset({"batch", "center", "ljust", "rjust", "slice", "to_bytes", "zfill"})
_SPLIT = frozenset({"list", "split", "splitlines", "wordcount"})
_BACKWARDS = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip", "trim"})
"""Methods that may scan their whole argument at every position of the text."""

_CODINGS = frozenset({"utf-8", "utf8", "ascii", "latin-1", "strict", "replace", "ignore"})


class TemplateFault(Exception):
    """The reason that a row has no prompt. The message never quotes the row."""


class Meter:
    """The remaining work budget of one rendering.

    Args:
        budget: in characters.
        source: the template; error messages may quote names that occur in it.
    """

    def __init__(self, budget: int, source: str) -> None:
        self._left, self.source = budget, source
        self.calls = 0

    def charge(self, work: int) -> None:
        """Count work that is about to be done."""
        self._left -= work
        if self._left < 0:
            raise TemplateFault("it takes more work than a row may have")

    def weigh(self, value: Any) -> None:
        """Count everything that a value holds, each time it occurs."""
        level = [value]
        for _ in range(MAX_DEPTH):
            inner: list[Any] = []
            for part in level:
                kind = type(part)
                if kind is str or kind is bytes:
                    self.charge(len(part))
                elif kind is int:
                    self.charge(part.bit_length() >> 3)
                elif issubclass(kind, Decimal):
                    self.charge(abs(part.adjusted()) if part.is_finite() else 0)
                elif issubclass(kind, _CONTAINERS):
                    self.charge(ELEMENT * len(part))
                    if kind is range:
                        continue
                    inner += part
                    if issubclass(kind, dict):
                        self.charge(ELEMENT * len(part))
                        inner += part.values()
            if not inner:
                return
            level = inner
        raise TemplateFault(f"a value is nested over {MAX_DEPTH} levels deep")


_CONTAINERS: tuple[type, ...] = (
    list,
    tuple,
    dict,
    set,
    frozenset,
    range,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)

meter: ContextVar[Meter] = ContextVar("meter")
"""The meter of the current rendering."""


class Counted:
    """An iterable that counts work for each item."""

    def __init__(self, inner: Any, work: int = OPERATION) -> None:
        self._inner, self._work = inner, work

    def __iter__(self) -> Iterator[Any]:
        counter = meter.get()
        for item in self._inner:
            counter.charge(self._work + (len(item) if isinstance(item, str) else 0))
            yield item

    def __len__(self) -> int:
        return len(self._inner)


def foresee(name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Count in advance the work of filters and methods that make much of little."""
    charge = meter.get().charge
    numbers = [abs(part) for part in (*args, *kwargs.values()) if type(part) is int]
    if name in _WIDE:
        charge(ELEMENT * max(numbers, default=0))
    elif name in _SPLIT and isinstance(value, str):
        charge(ELEMENT * len(value))
    elif name == "indent":
        margins = [*numbers, *(len(part) for part in (*args, *kwargs.values()) if isinstance(part, str))]
        charge((value.count("\n") + 1) * max(margins, default=4))
    elif name == "wordwrap":
        # Long words are cut from their start repeatedly; each line may end in a string from the template.
        width = max(1, min([number for number in numbers if number] or [79]))
        ends = sum(len(part) for part in (*args, *kwargs.values()) if isinstance(part, str))
        longest = max(map(len, value.split()), default=0)
        charge(len(value) * (1 + longest // width // 8) + (value.count("\n") + 1 + len(value) // width) * (ends + 1))
    elif name == "round":
        if max(numbers, default=0) > 1000:
            raise TemplateFault("the filter `round` was given too large a precision")
    elif name == "expandtabs":
        charge(len(value) * max(numbers, default=8))
    elif name == "replace" and isinstance(value, str | bytes):
        old, new, *_ = (*args, kwargs.get("old", ""), kwargs.get("new", ""))
        charge(value.count(kwargs.get("old", old)) * len(kwargs.get("new", new)))
    elif name in _BACKWARDS and isinstance(value, str | bytes):
        charge(len(value) * max(map(size_of, (*args, *kwargs.values())), default=1) >> 4)
    elif name in ("encode", "decode") and any(part not in _CODINGS for part in (*args, *kwargs.values())):
        raise TemplateFault("only UTF-8, ASCII and Latin-1 can be encoded")
    elif name == "join" and args and hasattr(args[0], "__len__") and isinstance(value, str | bytes):
        charge(len(args[0]) * len(value))
    elif name == "translate" and args and isinstance(args[0], Mapping):
        longest = max((len(part) for part in args[0].values() if isinstance(part, str)), default=0)
        charge(len(value) * longest)


def size_of(value: Any) -> int:
    """Return the work in characters that a value counts as, without the content of its elements."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() >> 3
    return ELEMENT * len(value) if isinstance(value, list | tuple | dict) else 0


def number_of(digits: str) -> int:
    """Parse a number in a format; of a long one only the first digits, which are over any budget already."""
    return int(digits[:12] or 0)


def bits_of(value: Any) -> int:
    """Return the bit length of a whole number; 0 for other values."""
    return value.bit_length() if isinstance(value, int) else 0


def check_bits(bits: int) -> None:
    """Refuse a whole number of this many bits if it is too large."""
    if bits > MAX_INT_BITS:
        raise TemplateFault("a number is too large")
