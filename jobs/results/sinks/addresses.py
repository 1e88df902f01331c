"""What a target of an export is, by its text alone: a file, a directory, a Delta or an Iceberg table."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from jobs.buckets import check_bucket
from jobs.errors import UsageError
from jobs.results.formats import form_of
from jobs.text import quoted
from schemas.exports import Export, ExportSpec, Rows

Kind = Literal["file", "directory", "delta", "iceberg"]

_DELTA, _ICEBERG = "delta:", "iceberg:"
_TABLE = re.compile(r"[\w-]+(\.[\w-]+){2,}")


@dataclass(frozen=True, slots=True)
class Address:
    """A target as its sink takes it.

    Attributes:
        where: a path or `s3://…`; of an Iceberg table, catalog, namespaces and name with dots between.
    """

    kind: Kind
    where: str


def address_of(target: str, *, partitioned: bool = False) -> Address:
    """Return what a target is.

    Args:
        partitioned: columns to partition by are given: what is no file and no table is a directory.

    Raises:
        UsageError: it is none of the four.
    """
    if target.startswith(_ICEBERG):
        name = target.removeprefix(_ICEBERG)
        if not _TABLE.fullmatch(name):
            raise UsageError(f"{quoted(target)} is not a table.", "Write iceberg:CATALOG.NAMESPACE.TABLE.")
        return Address("iceberg", name)
    if target.startswith(_DELTA):
        where = target.removeprefix(_DELTA).rstrip("/")
        if not where or ("://" in where and not re.match(r"s3://[^/]+/.", where)):
            raise UsageError(f"{quoted(target)} is not a table.", "Write delta:PATH or delta:s3://bucket/path.")
        return Address("delta", where)
    if form_of(target) is not None:
        return Address("file", target)
    if partitioned and target != "-":
        where = target.rstrip("/")
        if not where or ("://" in where and not re.match(r"s3://[^/]+/.", where)):
            raise UsageError(f"{quoted(target)} is not a directory.", "Give a path, or s3://bucket/path.")
        return Address("directory", where)
    raise UsageError(
        f"{quoted(target)} does not say what it is: a file, a directory or a table.",
        "Name a file by its ending (.parquet, .jsonl.gz, .csv …) or a table (delta:PATH, "
        "iceberg:CATALOG.NAMESPACE.TABLE), or partition a directory: --partition-by COLUMN.",
    )


def absolute(target: str) -> str:
    """Return the target as one that means the same wherever the export runs."""
    prefix = _DELTA if target.startswith(_DELTA) else ""
    path = target.removeprefix(prefix)
    if target.startswith(_ICEBERG) or "://" in path or path in ("", "-"):
        return target
    return prefix + str(Path(path).expanduser().absolute())


def check_address(address: Address, allowed_buckets: Collection[str] | None) -> None:
    """Refuse a target in a bucket that is not allowed, or at an address that cannot be written to.

    Raises:
        UsageError: it is refused.
    """
    if address.kind == "file":
        from jobs.results.targets import check_target

        check_target(address.where, allowed_buckets, later=True)
    elif address.kind != "iceberg":
        if "://" not in address.where and not address.where.startswith("/"):
            raise UsageError(
                f"{address.where} depends on where it is written from.", "Give an absolute path, or s3://…"
            )
        check_bucket(address.where, allowed_buckets)


def exports_of(spec: ExportSpec) -> list[Export]:
    """Return each choice of rows with its target: two for a target whose error rows go apart."""
    found = []
    for target in spec.targets:
        choices: dict[Rows, str] = {"all": target}
        if spec.errors != "keep":
            choices = {"ok": target}
        if spec.errors == "apart":
            choices["error"] = apart(target)
        for rows, where in choices.items():
            found.append(Export(target=where, rows=rows, partition_by=spec.partition_by, new_columns=spec.new_columns))
    return found


def apart(target: str) -> str:
    """Return where the error rows of a target go: `out.errors.csv.gz` beside `out.csv.gz`, `t_errors` beside `t`."""
    if target.startswith((_DELTA, _ICEBERG)):
        return f"{target.rstrip('/')}_errors"
    if form_of(target) is None:
        return f"{target.rstrip('/')}.errors"
    name = PurePosixPath(target).name
    endings = "".join(PurePosixPath(name).suffixes[-2 if _is_compressed(name) else -1 :])
    return f"{target.removesuffix(endings)}.errors{endings}"


def _is_compressed(name: str) -> bool:
    form = form_of(name)
    return form is not None and form.compression is not None
