"""Recognition of directories whose Parquet files alone are not the data: tables with a log, and unfinished output.

Read as plain files, a table with a log yields rows that were deleted, replaced or never committed; the output of an
unfinished job lacks rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jobs.errors import InvalidInput
from jobs.threads import in_threads


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A kind of table, or of output.

    Attributes:
        why: what is wrong with reading its files.
        folder: matches the name of a folder in the table that no plain dataset has.
        inside: matches the name of an entry directly inside it, if the folder's name alone is ambiguous.
        at: exact name of the folder for lookups, or None if it varies.
        whole: name of an entry beside the folder whose presence means that the files are complete.
        how: what to do instead; `{table}` stands for its address, `{name}` for the last part of that.
    """

    name: str
    why: str = "its log says which of its files count, and others lie there too"
    folder: re.Pattern[str]
    inside: re.Pattern[str] | None = None
    at: str | None = None
    whole: str | None = None
    how: str


_LOOKS_AT_ONCE = 8

_WRITE = "Write what it holds now as Parquet and give that: "
_SPARK = _WRITE + 'with Spark: spark.read.format("{format}").load("{table}").write.parquet("snapshot")'
_KINDS = (
    _Kind(
        name="a Delta table",
        folder=re.compile("_delta_log"),
        at="_delta_log",
        how="Name the table itself: {table}",
    ),
    _Kind(
        name="an Iceberg table",
        folder=re.compile("metadata"),
        inside=re.compile(r".*\.metadata\.json(\.gz)?|version-hint\.text"),
        at="metadata",
        how="Name the table itself: {table}",
    ),
    _Kind(
        name="a Hudi table",
        folder=re.compile(r"\.hoodie"),
        at=".hoodie",
        how=_SPARK.replace("{format}", "hudi"),
    ),
    _Kind(
        name="a Lance data set",
        folder=re.compile("_versions"),
        inside=re.compile(r".*\.manifest"),
        at="_versions",
        how=_WRITE + "python -c 'import lance, pyarrow.parquet as p; "
        'p.write_table(lance.dataset("{table}").to_table(), "snapshot.parquet")\'',
    ),
    _Kind(
        name="a Paimon table",
        folder=re.compile("snapshot"),
        inside=re.compile(r"LATEST|EARLIEST|snapshot-\d+"),
        at="snapshot",
        how=_SPARK.replace("{format}", "paimon"),
    ),
    _Kind(
        name="the output of a Spark stream",
        folder=re.compile("_spark_metadata"),
        at="_spark_metadata",
        how=_WRITE + 'with Spark: spark.read.parquet("{table}").write.parquet("snapshot")',
    ),
    _Kind(
        name="a Hive ACID table",
        folder=re.compile(r"(delete_)?delta_\d{7}_\d{7}(_\d+)?|base_\d{7}(_v\d+)?"),
        how=_WRITE + "with Hive or Spark, into a table of plain Parquet files",
    ),
    _Kind(
        name="the output of a Spark job that has not ended well",
        why="files may be missing",
        folder=re.compile("_temporary"),
        at="_temporary",
        how="Run that job to its end, or remove _temporary if you know that all is there",
    ),
    _Kind(
        name="a job of this program that has not succeeded",
        why="rows are missing",
        folder=re.compile("_job"),
        inside=re.compile(r"spec\.json"),
        at="_job",
        whole="_SUCCESS",
        how="Wait until it has (jobs wait {name}), or write the rows that it has: jobs results {name} results.parquet",
    ),
)


def may_be_log(name: str) -> bool:
    """Return whether a folder of this name must be listed to know whether it is the log of a table."""
    return any(kind.inside is not None and kind.folder.fullmatch(name) for kind in _KINDS)


def check_inside(root: str, paths: Iterable[str], list_folder: Callable[[str], Iterable[str]]) -> None:
    """Check that a dataset contains no table.

    Args:
        root: address of the dataset.
        paths: all paths there, hidden or not, relative to `root`; folders may be listed themselves.
        list_folder: returns the names directly inside a folder; none if it does not exist.

    Raises:
        InvalidInput: it contains one; says how to read the table.
    """
    for path in paths:
        parts = path.split("/")
        for depth, part in enumerate(parts):
            kind = next((kind for kind in _KINDS if kind.folder.fullmatch(part)), None)
            if kind is None or any(above.startswith(("_", ".")) for above in parts[:depth]):
                continue
            inside = parts[depth + 1] if depth + 1 < len(parts) else ""
            table = "/".join([root.rstrip("/"), *parts[:depth]])
            if kind.inside is not None and not kind.inside.fullmatch(inside):
                continue
            if kind.whole is None or kind.whole not in list_folder(table):
                raise _refused(kind, table, root)


def check_above(root: str, list_folder: Callable[[str], Iterable[str]]) -> None:
    """Check that a dataset is not part of a table.

    Args:
        root: address of the dataset.
        list_folder: returns the names directly inside a folder; none if it does not exist.

    Raises:
        InvalidInput: it is; says how to read the table.
    """
    for kind in _KINDS:
        if kind.folder.fullmatch(root.rstrip("/").rpartition("/")[2]) and kind.at is None:
            raise _refused(kind, root.rstrip("/").rpartition("/")[0], root)
    places = [(folder, kind) for folder in _parents(root) for kind in _KINDS if kind.at is not None]
    found = in_threads(_LOOKS_AT_ONCE, lambda place: list_folder(f"{place[0]}/{place[1].at}"), places)
    for (folder, kind), names in zip(places, found, strict=True):
        if not any(kind.inside is None or kind.inside.fullmatch(name) for name in names):
            continue
        if kind.whole is None or kind.whole not in list_folder(folder):
            raise _refused(kind, folder, root)


def _parents(root: str) -> Iterator[str]:
    """Yield the parent folders, nearest first, up to the bucket or the first level below the disk's root."""
    folder = root.rstrip("/").rpartition("/")[0]
    while folder and not folder.endswith("/"):
        yield folder
        folder = folder.rpartition("/")[0]


def _refused(kind: _Kind, table: str, root: str) -> InvalidInput:
    where = f"{root} is" if table == root.rstrip("/") else f"{table} in {root} is"
    if root.startswith(f"{table}/"):
        where = f"{root} is part of {table}, which is"
    how = kind.how.replace("{table}", table).replace("{name}", table.rpartition("/")[2])
    return InvalidInput(
        f"{where} {kind.name}: {kind.why}.",
        f"{how}. Or name the files that you want by a glob: '{root.rstrip('/')}/**/*.parquet'.",
    )
