"""Iceberg tables: the files of one snapshot, from the table's metadata.

Which metadata file is the table's is for a catalog to say. Without one it is the one that the version hint names, or
the one with the highest number; where two have it, the user must name one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import date, timedelta
from typing import Any

from jobs.dataset.libraries import library
from jobs.dataset.table_logs import (
    OpenTable,
    TableFile,
    Wanted,
    check_inside,
    not_appended,
    plain_address,
    s3_settings,
    unavailable,
)
from jobs.errors import InvalidInput, MissingInput, StoreError
from schemas.records import InputTable

CATALOGUED = "iceberg:"
"""Before the name of a table that a catalog knows."""

_METADATA = re.compile(r"v?(\d+)(-[^/]*)?(\.gz)?\.metadata\.json(\.gz)?")
_WRITE = "Rewrite its data files with the tool that wrote them (compaction), or write what it holds as Parquet."


def metadata_of(name: str) -> str:
    """Return the metadata file of a table that a catalog knows.

    Args:
        name: catalog, namespaces and table, with dots between.

    Raises:
        InvalidInput: the catalog has no such table.
        MissingPackage, UsageError, StoreError: as `jobs.catalogs.open_catalog`.
    """
    from jobs.catalogs import open_catalog, told

    catalog_name, _, table = name.partition(".")
    catalog = open_catalog(catalog_name, "Check the catalog and its configuration where this runs.")
    exceptions = library("pyiceberg.exceptions", f"The Iceberg table {name}")
    try:
        found = catalog.load_table(table)
    except (exceptions.NoSuchTableError, exceptions.NoSuchNamespaceError) as error:
        raise MissingInput(
            f"The Iceberg catalog {catalog_name!r} has no table {table}.", "Check its name, or wait until it is made."
        ) from error
    except Exception as error:
        raise StoreError(f"The Iceberg table {name} cannot be read: {told(error)}.", "Check the catalog.") from error
    return str(found.metadata_location)


def metadata_in(uri: str, names: Iterable[str]) -> str | None:
    """Return the address of the newest metadata file, given the names in the table's folder `metadata`.

    The address may also be that of a metadata file itself.

    Raises:
        InvalidInput: two files are the newest.
    """
    if uri.endswith(".metadata.json"):
        return uri
    numbered = [(int(match[1]), name) for name in names if (match := _METADATA.fullmatch(name))]
    if not numbered:
        return None
    newest = max(number for number, _ in numbered)
    found = [name for number, name in numbered if number == newest]
    if len(found) > 1:
        raise InvalidInput(
            f"The Iceberg table {uri} has two newest metadata files, {' and '.join(sorted(found))}: its catalog knows "
            "which one is the table's.",
            f"Name it: {uri}/metadata/{sorted(found)[0]}",
        )
    return f"{uri}/metadata/{found[0]}"


def open_table(uri: str, wanted: Wanted, location: str) -> OpenTable:
    """Open a table at a snapshot. Raises as `jobs.dataset.table_logs.open_table`.

    Args:
        location: its metadata file.
    """
    name = f"The Iceberg table {uri}"
    if "://" in location and not location.startswith("s3://"):
        raise InvalidInput(
            f"{name} is on a store that Iceberg tables are not read from: these are S3 and disks.",
            "Write what it holds as Parquet, and give that; Delta tables are read from there.",
        )
    tables = library("pyiceberg.table", name)
    try:
        table = tables.StaticTable.from_metadata(location, _properties(location))
        snapshot_id = _snapshot(name, table, wanted.at)
        _check_names(name, table, snapshot_id)
        since = None if wanted.since is None else _since(name, table, wanted.since, snapshot_id)
        tasks = _tasks(table, since, snapshot_id)
    except (InvalidInput, MemoryError):
        raise
    except OSError as error:
        raise unavailable(name, uri, error) from error
    except Exception as error:
        raise InvalidInput(
            f"{name} cannot be read: {type(error).__name__}.", f"Check that {location} is its metadata file."
        ) from error
    if any(task.delete_files for task in tasks):
        raise InvalidInput(f"{name} has rows that were deleted and still lie in its files.", _WRITE)
    if any(str(task.file.file_format).rpartition(".")[2].upper() != "PARQUET" for task in tasks):
        raise InvalidInput(f"{name} has files that are not Parquet.", _WRITE)
    root = uri.rpartition("/metadata/")[0] if uri.endswith(".metadata.json") else uri
    if uri.startswith(CATALOGUED):
        root = plain_address(table.location()).rstrip("/")
    files = [_file(task, table) for task in tasks]
    for file in files:
        check_inside(file.uri, root)
    types = table.schema().as_arrow()
    names = {name for file in files for name, _ in file.constants}
    return OpenTable(
        table=InputTable(
            uri=uri,
            format="iceberg",
            version=str(snapshot_id),
            metadata_uri=location,
            since=None if since is None else str(since),
        ),
        files=tuple(sorted(files, key=lambda file: file.uri)),
        types={each: types.field(each).type for each in names if each in types.names},
    )


def _snapshot(name: str, table: Any, wanted: str | None) -> int:
    """Return the id of the snapshot that is wanted: by its id, or the name of a branch or tag."""
    if wanted is None:
        if table.metadata.current_snapshot_id is None:
            raise InvalidInput(f"{name} has no rows: no snapshot was committed to it.", "Check that it was written.")
        return int(table.metadata.current_snapshot_id)
    if wanted in table.metadata.refs:
        return int(table.metadata.refs[wanted].snapshot_id)
    known = [snapshot.snapshot_id for snapshot in table.metadata.snapshots]
    if wanted.isdecimal() and int(wanted) in known:
        return int(wanted)
    raise InvalidInput(
        f"{name} has no snapshot, branch or tag {wanted[:80]!r}.",
        f"Its newest snapshots are {', '.join(map(str, known[-3:])) or 'none'}; older ones expire.",
    )


def _since(name: str, table: Any, wanted: str, snapshot_id: int) -> int:
    """Return the id of the snapshot after which rows are wanted; check that only appends came after it.

    Compaction changes no row. The snapshot itself may have expired: the next one names it.
    """
    known = table.metadata.refs.get(wanted)
    if known is None and not wanted.isdecimal():
        raise InvalidInput(f"{name} has no snapshot, branch or tag {wanted[:80]!r}.", "Check --since.")
    since = int(known.snapshot_id if known is not None else wanted)
    each: int | None = snapshot_id
    while each != since:
        snapshot = None if each is None else table.metadata.snapshot_by_id(each)
        if snapshot is None:
            what = "is none of its snapshots before" if each is None else "is no longer linked to"
            raise InvalidInput(
                f"{name}: snapshot {since} {what} {snapshot_id}: it has expired, or the table was rolled back or made "
                "anew.",
                "Read the whole table once, without --since, and go on from there.",
            )
        did = "unknown" if snapshot.summary is None else str(snapshot.summary.operation.value)
        if did not in ("append", "replace"):
            raise not_appended(name, f"snapshot {since}", f"snapshot {each} took rows away or changed them ({did})")
        each = snapshot.parent_snapshot_id
    return since


def _tasks(table: Any, since: int | None, snapshot_id: int) -> list[Any]:
    if since is None:
        return list(table.scan(snapshot_id=snapshot_id).plan_files())
    if since == snapshot_id:
        return []
    scan = table.incremental_append_scan(from_snapshot_id_exclusive=since, to_snapshot_id_inclusive=snapshot_id)
    return list(scan.plan_files())


def _check_names(name: str, table: Any, snapshot_id: int) -> None:
    """Check that a column's name tells which one it is: in files it stands as it was called when they were written."""
    snapshot = table.snapshot_by_id(snapshot_id)
    now = table.schemas().get(snapshot.schema_id, table.schema())
    ids = {field.name: field.field_id for field in now.fields}
    names = {field.field_id: field.name for field in now.fields}
    for field in (field for schema in table.schemas().values() for field in schema.fields):
        if ids.get(field.name, field.field_id) != field.field_id or names.get(field.field_id, field.name) != field.name:
            raise InvalidInput(f"{name} has a column that was renamed or made anew: {field.name!r}.", _WRITE)
    if any(getattr(field, "initial_default", None) is not None for field in now.fields):
        raise InvalidInput(f"{name} has a column with a default for older rows, which its files lack.", _WRITE)


def _file(task: Any, table: Any) -> TableFile:
    """Return a data file, with the values of its partition that are columns: files that were added may lack them."""
    spec = table.specs()[task.file.spec_id]
    schema = table.schema()
    constants = []
    for index, part in enumerate(spec.fields):
        if str(part.transform) == "identity" and (name := schema.find_column_name(part.source_id)) is not None:
            value = task.file.partition[index]
            if (text := _text(value, str(schema.find_type(part.source_id)))) is not None or value is None:
                constants.append((name, text))
    return TableFile(uri=plain_address(task.file.file_path), constants=tuple(constants))


def _text(value: Any, type_: str) -> str | None:
    """Return a partition's value as text; None for null and for types that files always hold themselves."""
    if type_ == "date" and isinstance(value, int):
        value = date(1970, 1, 1) + timedelta(days=value)
    if type_ in _WRITTEN and value is not None:
        return str(value).lower() if isinstance(value, bool) else str(value)
    return None


_WRITTEN: Collection[str] = frozenset({"string", "int", "long", "boolean", "date"})


def _properties(location: str) -> dict[str, str]:
    properties = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
    if not location.startswith("s3://"):
        return properties
    endpoint, region, found = s3_settings()
    properties |= {"s3.endpoint": endpoint} if endpoint else {}
    properties |= {"s3.region": region} if region else {}
    if found is not None:
        properties |= {"s3.access-key-id": found.access_key, "s3.secret-access-key": found.secret_key}
        properties |= {"s3.session-token": found.token} if found.token else {}
    return properties
