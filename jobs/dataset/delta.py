"""Delta tables: the files of one version, from the table's log."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from jobs.dataset.libraries import library
from jobs.dataset.table_logs import (
    OpenTable,
    TableFile,
    Wanted,
    check_inside,
    not_appended,
    plain_address,
    read_commit,
    s3_settings,
    unavailable,
)
from jobs.errors import InvalidInput
from schemas.records import InputTable

_READABLE = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening", "typeWidening-preview"})
"""Features after which a table's Parquet files still say all that the table holds."""

_WRITE = "write what it holds as Parquet with the tool that wrote it, and give that."


def open_table(uri: str, given: Wanted) -> OpenTable:
    """Open a table at a version. Raises as `jobs.dataset.table_logs.open_table`."""
    name = f"The Delta table {uri}"
    deltalake = library("deltalake", name)
    wanted = given.at

    def at(version: str | None) -> Any:
        table = deltalake.DeltaTable(uri, storage_options=_storage_options() if uri.startswith("s3://") else None)
        if version is not None:
            table.load_as_version(int(version) if version.isdecimal() else version)
        return table

    try:
        table = at(wanted)
        _check_readable(name, table)
        schema = pa.schema(table.schema().to_arrow())
        # A moment is a version, too; a number need not be in the log any more.
        since = given.since if given.since is None or given.since.isdecimal() else str(at(given.since).version())
        files = _files(uri, table) if since is None else _appended(uri, name, table, schema, int(since))
    except (InvalidInput, MemoryError):
        raise
    except OSError as error:
        raise unavailable(name, uri, error) from error
    except Exception as error:
        raise InvalidInput(
            f"{name} cannot be read{f' at {wanted}' if wanted else ''}: {type(error).__name__}.",
            f"Check {'--at' if given.since is None else '--at and --since'}: a version's number, or a moment such as "
            "2026-03-01T00:00:00Z. Versions that were cleaned away cannot be read.",
        ) from error
    for file in files:
        check_inside(file.uri, uri)
    return OpenTable(
        table=InputTable(uri=uri, format="delta", version=str(table.version()), since=since),
        files=tuple(sorted(files, key=lambda file: file.uri)),
        types={column: schema.field(column).type for column in table.metadata().partition_columns},
    )


def _files(uri: str, table: Any) -> list[TableFile]:
    """Return all files of a version."""
    actions, prefix = pa.table(table.get_add_actions(flatten=True)), "partition."
    partitions = {
        name.removeprefix(prefix): actions[name].cast(pa.string()).to_pylist()
        for name in actions.schema.names
        if name.startswith(prefix)
    }
    return [
        TableFile(
            uri=_address(uri, path), constants=tuple((name, values[index]) for name, values in partitions.items())
        )
        for index, path in enumerate(actions["path"].to_pylist())
    ]


def _appended(uri: str, name: str, table: Any, schema: pa.Schema, since: int) -> list[TableFile]:
    """Return the files that appends have brought after a version, as the log's own entries tell.

    A later compaction takes them out of the table, and leaves them where they are until a clean-up.
    """
    newest, table_id, keys = table.version(), str(table.metadata().id), table.metadata().partition_columns
    if newest < since:
        raise InvalidInput(
            f"{name} is at version {newest}, before version {since} after which its rows are wanted.",
            "If it was made anew, read all of it once, without --since.",
        )
    files: dict[str, TableFile] = {}
    for version in range(since + 1, newest + 1):
        what = "no entry of its own in the log any more"
        if (actions := read_commit(f"{uri}/_delta_log/{version:020}.json")) is None:
            raise not_appended(name, f"version {since}", f"version {version} has {what}, so what it did is not known")
        by = next((str(action["commitInfo"].get("operation")) for action in actions if "commitInfo" in action), "")
        for action in actions:
            add, remove = action.get("add"), action.get("remove")
            if action.get("metaData", {}).get("id", table_id) != table_id:
                raise not_appended(name, f"version {since}", f"version {version} made it anew")
            if (remove and remove.get("dataChange", True)) or (add and add.get("deletionVector")):
                did = f" ({by})" if by else ""
                raise not_appended(name, f"version {since}", f"version {version} took rows away or changed them{did}")
            if add and add.get("dataChange", True):
                values = add.get("partitionValues") or {}
                constants = ((key, _value(values.get(key), schema.field(key).type)) for key in keys)
                path = _address(uri, add["path"])
                files[path] = TableFile(uri=path, constants=tuple(constants))
    return [*files.values()]


def _value(text: str | None, type_: pa.DataType) -> str | None:
    """Return a partition's value as the log's entries have it, in the form that the library gives."""
    if pa.types.is_timestamp(type_) and type_.tz is not None and text and not text.endswith("Z"):
        return f"{text}Z"  # the log's short form is in UTC
    return text or None


def _check_readable(name: str, table: Any) -> None:
    features = set(table.protocol().reader_features or ())
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise InvalidInput(f"{name} names its columns otherwise than its files do (column mapping).", _write(name))
    if "deletionVectors" in features and pa.table(table.deletion_vectors().read_all()).num_rows:
        raise InvalidInput(
            f"{name} has rows that were deleted and still lie in its files (deletion vectors).",
            f"Purge them (REORG TABLE … APPLY (PURGE)), or {_WRITE}",
        )
    if unknown := sorted(features - _READABLE - {"deletionVectors", "columnMapping"}):
        raise InvalidInput(f"{name} uses {', '.join(unknown)}, which this program does not know.", _write(name))


def _write(name: str) -> str:
    return f"{_WRITE[0].upper()}{_WRITE[1:]}"


def _address(uri: str, path: str) -> str:
    """Return the address of a file as the log names it: relative to the table, or absolute; URL-encoded."""
    path = plain_address(unquote(path))
    return path if path.startswith("/") or "://" in path else f"{uri}/{path}"


def _storage_options() -> dict[str, str]:
    endpoint, region, found = s3_settings()
    options = {"aws_region": region or "us-east-1"}
    if endpoint is not None:
        options |= {"aws_endpoint_url": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    if found is not None:
        options |= {"aws_access_key_id": found.access_key, "aws_secret_access_key": found.secret_key}
        options |= {"aws_session_token": found.token} if found.token else {}
    return options
