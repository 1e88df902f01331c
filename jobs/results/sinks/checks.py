"""Checks of a job's exports before anything starts: after the inference it would be late to find a slip."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from jobs.errors import MissingPackage, UsageError
from jobs.packages import install_hint
from jobs.results.sinks.addresses import address_of, check_address, exports_of
from jobs.results.sinks.rounds import Rounds
from jobs.results.sinks.tables import table_at
from jobs.results.targets import check_writable
from jobs.text import quoted
from schemas.exports import JOB_COLUMN, Export
from schemas.spec import OWN_COLUMNS, JobSpec

if TYPE_CHECKING:
    import pyarrow as pa

_NOBODY = Rounds("-")
"""No job has this id."""

_PACKAGES = {"delta": ("deltalake", "Delta"), "iceberg": ("pyiceberg", "Iceberg")}


def check_exports(spec: JobSpec, allowed_buckets: Collection[str] | None) -> None:
    """Check the targets by their text, and the options beside them.

    Raises:
        UsageError: a target says nothing, is given twice or lies in a bucket that is not allowed, or an option has no
            use or names a column that results do not have.
    """
    wanted = spec.export
    if not wanted.targets:
        for option, given in (
            ("--partition-by", wanted.partition_by),
            ("--export-errors", wanted.errors != "keep"),
            ("--export-new-columns", wanted.new_columns != "refuse"),
        ):
            if given:
                raise UsageError(f"{option} is given, and no export.", "Add --export TARGET.")
        return
    columns = OWN_COLUMNS[spec.task] | set(spec.input.keep)
    if unknown := [name for name in wanted.partition_by if name not in columns]:
        raise UsageError(
            f"The results will have no column {quoted(unknown[0])} to partition by.",
            f"Keep it: --keep {','.join([*spec.input.keep, unknown[0]])}",
        )
    exports = exports_of(wanted)
    if len({export.target for export in exports}) < len(exports):
        raise UsageError("A target of the exports is given twice.", "Name each one once.")
    addresses = [address_of(export.target, partitioned=bool(wanted.partition_by)) for export in exports]
    for address in addresses:
        check_address(address, allowed_buckets)
    kinds = {address.kind for address in addresses}
    if wanted.partition_by and kinds == {"file"}:
        raise UsageError(
            "A file has no partitions.", "Name a directory or a table as the target, or drop --partition-by."
        )
    taken = [name for name in spec.input.keep if name.casefold().strip() == JOB_COLUMN]
    if kinds & {"delta", "iceberg"} and taken:
        raise UsageError(
            f"A table's column {JOB_COLUMN!r} names the job; the column {quoted(taken[0])} cannot be kept beside it.",
            "Rename it in the dataset, or export to files.",
        )


def is_file(target: str) -> bool:
    """Return whether a target is a single file."""
    return address_of(target, partitioned=True).kind == "file"


def check_targets_here(exports: Sequence[Export], allowed_buckets: Collection[str] | None) -> None:
    """Check what only the machine can tell that will export: whether files can be written and tables be reached.

    Raises:
        MissingPackage: the library of a table is not installed.
        UsageError: a file cannot be written, or a catalog is not configured.
        StoreError: the target's store or catalog cannot be reached.
    """
    for export in exports:
        address = address_of(export.target, partitioned=bool(export.partition_by))
        if address.kind in _PACKAGES:
            module, name = _PACKAGES[address.kind]
            if find_spec(module) is None:
                raise MissingPackage(f"{name} tables need a package that is missing here.", install_hint(module))
            table_at(address, allowed_buckets).look(_NOBODY)  # it can be reached
        elif address.kind == "file":
            check_writable(address.where)


def check_tables_here(exports: Sequence[Export], results: pa.Schema, allowed_buckets: Collection[str] | None) -> None:
    """Check that the tables that exist take the columns of the results, as far as these are known.

    Raises:
        UsageError: a table has other columns, or other types.
        StoreError: a table cannot be reached.
    """
    for export in exports:
        address = address_of(export.target, partitioned=bool(export.partition_by))
        if address.kind in _PACKAGES:
            table = table_at(address, allowed_buckets)
            from jobs.results.sinks.table_types import table_schema

            table.look(_NOBODY)
            table.check(table_schema(results), export.new_columns)
