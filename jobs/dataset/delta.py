"""Delta tables: the files of one version, from the table's log."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from jobs.dataset.table_logs import OpenTable, TableFile, check_inside, library, plain_address, s3_settings, unavailable
from jobs.errors import InvalidInput
from schemas.records import InputTable

_READABLE = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening", "typeWidening-preview"})
"""Features after which a table's Parquet files still say all that the table holds."""

_WRITE = "write what it holds as Parquet with the tool that wrote it, and give that."


def open_table(uri: str, at: str | None, pinned: InputTable | None) -> OpenTable:
    """Open a table at a version. Raises as `jobs.dataset.table_logs.open_table`."""
    name = f"The Delta table {uri}"
    deltalake = library("deltalake", name)
    wanted = pinned.version if pinned is not None else at
    try:
        table = deltalake.DeltaTable(uri, storage_options=_storage_options() if uri.startswith("s3://") else None)
        if wanted is not None:
            table.load_as_version(int(wanted) if wanted.isdecimal() else wanted)
        _check_readable(name, table)
        actions = pa.table(table.get_add_actions(flatten=True))
        schema = pa.schema(table.schema().to_arrow())
    except (InvalidInput, MemoryError):
        raise
    except OSError as error:
        raise unavailable(name, uri, error) from error
    except Exception as error:
        raise InvalidInput(
            f"{name} cannot be read{f' at {wanted}' if wanted else ''}: {type(error).__name__}.",
            "Check --at: it is a version's number, or a moment such as 2026-03-01T00:00:00Z. Versions that were "
            "cleaned away cannot be read.",
        ) from error
    prefix = "partition."
    partitions = {
        name.removeprefix(prefix): actions[name].cast(pa.string()).to_pylist()
        for name in actions.schema.names
        if name.startswith(prefix)
    }
    paths = [_address(uri, path) for path in actions["path"].to_pylist()]
    for path in paths:
        check_inside(path, uri)
    files = [
        TableFile(uri=path, constants=tuple((name, values[index]) for name, values in partitions.items()))
        for index, path in enumerate(paths)
    ]
    return OpenTable(
        table=InputTable(uri=uri, format="delta", version=str(table.version())),
        files=tuple(sorted(files, key=lambda file: file.uri)),
        types={name: schema.field(name).type for name in partitions},
    )


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
