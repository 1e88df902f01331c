"""The footer of a Parquet file in Thrift's compact protocol, inspected and cut if Arrow cannot read it whole.

Arrow opens a file only if it can read the type of every column. If a file has a column that it cannot read, the footer
is rewritten without that column: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

_ARROW_SCHEMA = b"\x18\x0cARROW:schema\x18"
"""Key of Arrow's own schema at the start of a key-value pair: a column's name is never followed by a string field."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 32

# Fields of FileMetaData, SchemaElement, RowGroup and ColumnChunk.
_SCHEMA, _ROW_GROUPS, _COLUMN_ORDERS, _ENCRYPTION, _SIGNING_KEY = 2, 4, 7, 8, 9
_NAME, _NUM_CHILDREN = 4, 5
_COLUMNS, _SORTING = 1, 4
_CRYPTO = 8


class NotAFooter(ValueError):
    """The bytes are not Thrift."""


def without_arrow_schema(footer: bytes) -> bytes:
    """Return the footer with Parquet's own types only: dictionaries, for example, become their value type."""
    return footer.replace(_ARROW_SCHEMA, _ARROW_SCHEMA.replace(b"ARROW", b"arrow"))


class Footer:
    """A footer parsed into Thrift structures.

    Raises:
        NotAFooter: the bytes are not Thrift or not a footer.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._root = _Reader(data).struct()
            self._leaves = list(self._leaf_names())
            self.only(self._leaves)
        except (LookupError, RecursionError) as error:
            raise NotAFooter("no schema") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the top-level columns, without duplicates."""
        return tuple(dict.fromkeys(self._leaves))

    @property
    def encrypted(self) -> frozenset[str]:
        """Names of top-level columns that are at least partly encrypted."""
        return frozenset(
            name
            for group in self._groups()
            for name, chunk in zip(self._leaves, _items(group, _COLUMNS), strict=False)
            if _CRYPTO in chunk
        )

    def only(self, names: Collection[str], *, row_groups: bool = True) -> bytes:
        """Return the footer with only these top-level columns.

        Args:
            row_groups: keep the row groups; without them only the schema remains.
        """
        wanted = [name in names for name in self._leaves]

        def of_wanted(struct: dict[int, Any], field: int) -> Any:
            return _LIST, (_STRUCT, [item for item, keep in zip(_items(struct, field), wanted, strict=False) if keep])

        elements = self._elements()
        kept = [elements[start:stop] for start, stop in self._subtrees() if _text(elements[start]) in names]
        top = elements[0] | {_NUM_CHILDREN: (_I32, 2 * len(kept))}
        groups = [
            {field: value for field, value in group.items() if field != _SORTING}
            | {_COLUMNS: of_wanted(group, _COLUMNS)}
            for group in (self._groups() if row_groups else ())
        ]
        root = {field: value for field, value in self._root.items() if field not in (_ENCRYPTION, _SIGNING_KEY)}
        root[_SCHEMA] = _LIST, (_STRUCT, [top, *(element for subtree in kept for element in subtree)])
        root[_ROW_GROUPS] = _LIST, (_STRUCT, groups)
        if _COLUMN_ORDERS in root:
            root[_COLUMN_ORDERS] = of_wanted(root, _COLUMN_ORDERS)
        return b"".join(_struct(dict(sorted(root.items()))))

    def _elements(self) -> list[dict[int, Any]]:
        return _items(self._root, _SCHEMA)

    def _groups(self) -> list[dict[int, Any]]:
        return _items(self._root, _ROW_GROUPS)

    def _subtrees(self) -> Iterator[tuple[int, int]]:
        """Yield the half-open range of schema elements of each top-level column."""
        elements = self._elements()
        start = 1
        while start < len(elements):
            open_, stop = 1, start
            while open_:
                open_ += _number(elements[stop], _NUM_CHILDREN) - 1
                stop += 1
            yield start, stop
            start = stop

    def _leaf_names(self) -> Iterator[str]:
        """Yield the top-level column of each column chunk."""
        elements = self._elements()
        for start, stop in self._subtrees():
            for element in elements[start:stop]:
                if _NUM_CHILDREN not in element:
                    yield _text(elements[start])


def _items(struct: dict[int, Any], field: int) -> list[dict[int, Any]]:
    kind, value = struct.get(field, (_LIST, (_STRUCT, [])))
    if kind != _LIST or (value[1] and value[0] != _STRUCT):
        raise NotAFooter("not a list of structures")
    return list(value[1])


def _text(element: dict[int, Any]) -> str:
    kind, name = element[_NAME]
    if kind != _BINARY:
        raise NotAFooter("a name is no text")
    return str(name, errors="replace")


def _number(element: dict[int, Any], field: int) -> int:
    """Return a whole number, which Thrift encodes as zigzag."""
    kind, value = element.get(field, (_I32, 0))
    if kind not in (_I16, _I32, _I64):
        raise NotAFooter("a count is no number")
    return _signed(int(value))


def _signed(zigzag: int) -> int:
    return (zigzag >> 1) ^ -(zigzag & 1)


class _Reader:
    """Reader of Thrift values; whole numbers stay in their zigzag encoding."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._depth = data, 0, 0

    def struct(self) -> dict[int, Any]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotAFooter("nested too deeply")
        fields: dict[int, Any] = {}
        last = 0
        while header := self._byte():
            kind, step = header & 15, header >> 4
            if step:
                last += step
            else:
                last = _signed(self._varint())
            fields[last] = (kind, self._value(kind))
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return None
        if kind == _BYTE:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._varint()
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            header = self._byte()
            size, of = header >> 4, header & 15
            if size == 15:
                size = self._varint()
            # Booleans take a byte each in lists; in fields, the type is the value.
            return of, [self._byte() if of in (_TRUE, _FALSE) else self._value(of) for _ in range(size)]
        if kind == _STRUCT:
            return self.struct()
        raise NotAFooter(f"unknown type {kind}")

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise NotAFooter("cut short")
        self._at += size
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise NotAFooter("a number has no end")


def _struct(fields: dict[int, Any]) -> Iterator[bytes]:
    last = 0
    for number, (kind, value) in fields.items():
        step = number - last
        yield bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _varint(number << 1)
        yield from _written(kind, value)
        last = number
    yield b"\0"


def _written(kind: int, value: Any) -> Iterator[bytes]:
    if kind in (_TRUE, _FALSE):
        return
    if kind == _BYTE:
        yield bytes([value])
    elif kind in (_I16, _I32, _I64):
        yield _varint(value)
    elif kind == _DOUBLE:
        yield value
    elif kind == _BINARY:
        yield _varint(len(value)) + value
    elif kind in (_LIST, _SET):
        of, items = value
        yield bytes([len(items) << 4 | of]) if len(items) < 15 else bytes([0xF0 | of]) + _varint(len(items))
        write: Callable[[Any], Iterator[bytes]] = (
            (lambda item: iter((bytes([item]),))) if of in (_TRUE, _FALSE) else (lambda item: _written(of, item))
        )
        for item in items:
            yield from write(item)
    else:
        yield from _struct(value)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
