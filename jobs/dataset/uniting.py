"""One schema for all files of a dataset, with reasons that a column cannot be used.

Files that differ in an unused column are still one dataset. So the problem is stored in the field's metadata, and only
code that needs the column raises it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from jobs.dataset import folders, parquet
from jobs.dataset.columnar import Footer
from jobs.dataset.sources import Source
from jobs.dataset.types import united
from jobs.errors import InvalidInput
from schemas.records import InputColumn

_UNUSABLE, _LACKING = b"nightbatch.unusable", b"nightbatch.lacking"

_HINTS = {
    parquet.ENCRYPTED: "Decrypt it where its keys are, or leave that column out.",
    parquet.STRANGE: "Write the column in another type, for example as text, or leave it out.",
    parquet.INTERVAL: "Write the column in another type, for example as text, or leave it out.",
    parquet.TWICE: "Rename one of the two.",
}
_APART = "Write all files with one schema, or give a glob that fits the ones that belong together."


def united_schema(sources: Sequence[Source], footers: Sequence[Footer]) -> pa.Schema:
    """Return the schema of all files that have rows, with columns in order of first appearance."""
    full = [(s, f) for s, f in zip(sources, footers, strict=True) if sum(f.block_rows)]
    # Most of thousands of files are alike.
    kinds: list[tuple[Source, Footer]] = []
    for source, footer in full or list(zip(sources, footers, strict=True)):
        if not any(_alike(footer, known) for _, known in kinds):
            kinds.append((source, footer))
    names = dict.fromkeys(name for _, footer in kinds for name in (*footer.schema.names, *footer.unreadable))
    return pa.schema([_field(name, kinds) for name in names])


def with_folders(schema: pa.Schema, sources: Sequence[Source], types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema with the columns that folders, or the log of a table, name for these files.

    Args:
        sources: the files, each with those of its folders' columns that it does not have itself.
        types: types of columns that a table's log tells; those of folders follow from their values.
    """
    values: dict[str, list[str | None]] = {}
    first: dict[str, Source] = {}
    for source in sources:
        for name, value in source.constants:
            values.setdefault(name, []).append(value)
            first.setdefault(name, source)
    for name, found in values.items():
        type_ = types.get(name) or folders.type_of(found)
        if name not in schema.names:
            some = len(found) < len(sources)
            lacks = next((each for each in sources if name not in dict(each.constants)), None) if some else None
            marks = {_LACKING: lacks.uri.encode(errors="replace")} if lacks else None
            schema = schema.append(pa.field(name, type_, metadata=marks))
            continue
        index, own = schema.get_field_index(name), schema.field(name)
        both = united([own.type, type_])
        if unusable(own) is None and both is None:
            own = _marked(
                name,
                f"The files have different schemas: column {name!r} is {own.type} in files, and {type_} in the folders "
                f"of {first[name].uri}.",
            )
        schema = schema.set(index, own if both is None else own.with_type(both))
    return schema


def unusable(field: pa.Field) -> str | None:
    """Return a sentence on why the column cannot be used, or None."""
    said = (field.metadata or {}).get(_UNUSABLE)
    return None if said is None else said.decode()


def lacking(field: pa.Field) -> str | None:
    """Return the URI of a file that lacks the column, or None."""
    said = (field.metadata or {}).get(_LACKING)
    return None if said is None else said.decode()


def check_usable(field: pa.Field, *, everywhere: bool = False) -> None:
    """Check that a column can be read from the files.

    Args:
        everywhere: every file must have it; otherwise it is null in files that lack it.

    Raises:
        InvalidInput: it cannot be read; names the file.
    """
    if (why := unusable(field)) is not None:
        raise InvalidInput(why, next((hint for reason, hint in _HINTS.items() if f"{reason}." in why), _APART))
    if everywhere and (uri := lacking(field)) is not None:
        raise InvalidInput(f"The files have different schemas: {uri} has no column {field.name!r}.", _APART)


def shown_columns(schema: pa.Schema) -> tuple[InputColumn, ...]:
    """Return the columns of a dataset in words, for its plan."""
    return tuple(
        InputColumn(name=field.name, type=str(field.type) if unusable(field) is None else "cannot be used")
        for field in schema
    )


def unmarked(field: pa.Field) -> pa.Field:
    """Return the field without this module's metadata."""
    said = {key: value for key, value in (field.metadata or {}).items() if key not in (_UNUSABLE, _LACKING)}
    return field.with_metadata(said or None) if said else field.remove_metadata()


def _alike(one: Footer, other: Footer) -> bool:
    return bool(one.unreadable == other.unreadable and one.schema.equals(other.schema, check_metadata=True))


def _field(name: str, kinds: Sequence[tuple[Source, Footer]]) -> pa.Field:
    there: list[tuple[Source, pa.Field]] = []
    metadata: dict[bytes, bytes] = {}
    for source, footer in kinds:
        if name in footer.unreadable:
            return _marked(name, f"Column {name!r} of {source.uri} {footer.unreadable[name]}.")
        if name in footer.schema.names:
            there.append((source, footer.schema.field(name)))
        else:
            metadata.setdefault(_LACKING, source.uri.encode(errors="replace"))
    first, field = there[0]
    type_ = field.type
    for source, other in there[1:]:
        both = united([type_, other.type])
        if both is None:
            return _marked(
                name,
                f"The files have different schemas: column {name!r} is {other.type} in {source.uri} and {field.type} "
                f"in {first.uri}; {source.uri} is the first that differs.",
            )
        type_ = both
    if all(other.metadata == field.metadata for _, other in there):
        metadata |= field.metadata or {}
    return pa.field(name, type_, metadata=metadata or None)


def _marked(name: str, sentence: str) -> pa.Field:
    return pa.field(name, pa.null(), metadata={_UNUSABLE: sentence.encode(errors="replace")})
