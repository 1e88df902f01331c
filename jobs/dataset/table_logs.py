"""Tables with a log, opened at one version: the files that count, read by the libraries of these formats.

The libraries are optional, and imported only where such a table is found.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.dataset import objects
from jobs.errors import InvalidInput, JobsError, MissingInput, StoreError
from schemas.records import InputTable


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """One file of a table.

    Attributes:
        constants: columns that the log tells instead of the file, as text; null is None.
    """

    uri: str
    constants: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTable:
    """A table at one version.

    Attributes:
        files: its files in name order.
        types: types of the columns that the log tells.
    """

    table: InputTable
    files: tuple[TableFile, ...]
    types: Mapping[str, pa.DataType] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which rows of a table are wanted.

    Attributes:
        at: the version or snapshot that has them; None for the newest.
        since: take only those that were appended after this version or snapshot.
        metadata_uri: an Iceberg table's metadata file, if a plan names it.
    """

    at: str | None = None
    since: str | None = None
    metadata_uri: str | None = None

    @classmethod
    def of(cls, pinned: InputTable) -> Wanted:
        """Return what a plan stands on."""
        return cls(at=pinned.version, since=pinned.since, metadata_uri=pinned.metadata_uri)


def open_table(uri: str, wanted: Wanted, pinned: InputTable | None) -> OpenTable | None:
    """Open the Delta or Iceberg table at an address; None if there is none.

    Args:
        wanted: what the user wants of it.
        pinned: what a plan stands on; it goes before `wanted`.

    Raises:
        InvalidInput: the table cannot be read as plain files, has no such version, or has seen more than appends since
            the one after which rows are wanted.
        MissingPackage: its library is not installed.
        StoreError: S3 cannot be reached or refuses.
    """
    from jobs.dataset import delta, iceberg

    place = uri.rstrip("/")
    if pinned is not None:
        wanted = Wanted.of(pinned)
    if uri.startswith(iceberg.CATALOGUED):
        location = wanted.metadata_uri or iceberg.metadata_of(uri.removeprefix(iceberg.CATALOGUED))
        return iceberg.open_table(uri, wanted, plain_address(location))
    if (pinned is not None and pinned.format == "delta") or names_in(f"{place}/_delta_log"):
        return delta.open_table(place, wanted)
    metadata = wanted.metadata_uri or iceberg.metadata_in(place, names_in(f"{place}/metadata"))
    return None if metadata is None else iceberg.open_table(place, wanted, metadata)


def names_in(folder: str) -> list[str]:
    """Return names directly inside a folder, on S3 or on disk; none if it does not exist."""
    if objects.is_object(folder):
        return objects.names_in(folder, must_answer=True)
    try:
        return os.listdir(folder)
    except OSError:
        return []


def read_commit(uri: str) -> list[dict[str, Any]] | None:
    """Return the entries of a Delta log's commit; None if it is not there.

    Raises:
        InvalidInput: it is damaged.
        StoreError: S3 cannot be reached or refuses.
    """
    damaged = InvalidInput(f"{uri} is damaged.", "Restore the table's log with the tool that wrote it.")
    try:
        if not objects.is_object(uri):
            lines = Path(uri).read_bytes().splitlines()
        elif (found := objects.describe(uri)) is None:
            return None
        else:
            lines = objects.open_object(uri, *found, damaged, damaged).readlines()
        actions = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged from error
    if not all(isinstance(action, dict) for action in actions):
        raise damaged
    return actions


def plain_address(path: str) -> str:
    """Return a log's address of a file as this program writes it: Hadoop has other names for S3 and for disks."""
    return re.sub(r"^file:(//)?(?=/)", "", re.sub(r"^s3[an]://", "s3://", path))


def not_appended(table: str, since: str, why: str) -> InvalidInput:
    """Return the error for rows after a version that cannot be told from the others."""
    return InvalidInput(
        f"{table} has seen more than appends since {since}: {why}.",
        "Read the whole table once, without --since, and go on from there; rows that did not change need no engine "
        "with --reuse.",
    )


def check_inside(uri: str, table: str) -> None:
    """Check that a file that a log names lies in the table: a log must not lead a job to other data.

    Raises:
        InvalidInput: it does not.
    """
    path = uri if objects.is_object(uri) else os.path.normpath(uri)
    if not path.startswith(f"{table}/") or "/../" in uri:
        raise InvalidInput(
            f"The log of {table} names a file outside of it, which this program does not follow.",
            "Copy the table so that its files lie in it (a deep clone), or write it as Parquet.",
        )


def unavailable(name: str, uri: str, error: OSError) -> JobsError:
    """Return the error for a table's log that could not be fetched: it may be there again later."""
    what = f"{name} cannot be read now: {type(error).__name__}."
    if objects.is_object(uri):
        return StoreError(what, "Check the network, the store's address and the credentials; then run it again.")
    return MissingInput(what, "Check that its log is complete, and that this user may read it.")


def s3_settings() -> tuple[str | None, str | None, Any]:
    """Return endpoint (None for AWS itself), region and credentials, as the AWS settings of this process give them."""
    import boto3

    session = boto3.session.Session()
    meta = session.client("s3").meta
    found = session.get_credentials()
    endpoint = None if ".amazonaws.com" in meta.endpoint_url else meta.endpoint_url
    return endpoint, meta.region_name, None if found is None else found.get_frozen_credentials()
