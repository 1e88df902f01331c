"""Finding the files behind an address: a file, a directory, a glob, or the same on S3."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from urllib.parse import unquote

from jobs.dataset import foreign, hub_files, objects, saved_datasets, tables
from jobs.dataset.folders import values_of
from jobs.dataset.formats import ENDINGS, tier_of
from jobs.dataset.left_out import LeftOut, splits_in
from jobs.dataset.sources import InputGone, Source
from jobs.dataset.table_logs import OpenTable
from jobs.errors import InvalidInput, MissingInput
from jobs.threads import in_threads
from jobs.values.cells import is_encodable

_LOOKS_AT_ONCE = 16
_CATALOGUED = "iceberg:"
_MAX_SHOWN = 300


def find_sources(uri: str, *, part_of_table: bool = False) -> tuple[list[Source], LeftOut]:
    """Find the dataset's files in name order, and what is left out beside them.

    A directory or prefix is searched at any depth for names of data files; a file or glob is taken as named. Empty
    files and names that start with `_` or `.` are left out, unless the address itself holds them. Folders that are
    named `key=value`, from the first of them on, are columns of the files in them. A directory that is a table with a
    log, holds one or is part of one is refused: its files alone differ from the table's content.

    Args:
        part_of_table: skip the check that a directory is not part of a table.

    Raises:
        InvalidInput: nothing there, no such files, or a table.
        StoreError: the object store cannot be reached or refuses.
    """
    if objects.is_object(uri):
        return _find_objects(uri, part_of_table)
    path = local_path(uri)
    if os.path.isfile(path):
        return _as_named([_local(path)], os.path.dirname(path))
    if os.path.isdir(path):
        if not part_of_table:
            tables.check_above(os.path.realpath(path), names_in)
        if (saved := _saved(path, names_in(path), _local_bytes)) is not None:
            return [_local(os.path.join(path, name)) for name in saved], LeftOut()
        left_out = LeftOut()
        return _data_files(uri, path, [_local(found) for found in sorted(_walk(path, left_out))], left_out)
    if os.path.lexists(path):
        raise _not_a_file(path)
    if glob.has_magic(path):
        base = _fixed_part(path)
        found = [name for name in _matches(path, base) if os.path.isfile(name)]
        if sources := [_local(name) for name in sorted(found) if not _is_hidden(name.removeprefix(base))]:
            return _as_named(sources, base)
        raise MissingInput(
            f"No file matches {shown(uri)}.", "Check the pattern; quote it, so that the shell leaves it alone."
        )
    raise MissingInput(f"There is no file or directory {shown(uri)}.", "Check the path.")


def may_be_table(uri: str) -> bool:
    """Return whether an address may be that of a Delta or Iceberg table, as far as it alone tells."""
    if uri.startswith(hub_files.SCHEME):
        return False
    if objects.is_object(uri):
        # A look costs two requests: a name of data without a slash at its end is taken for a file's.
        if glob.has_magic(uri) or (tier_of(uri) is not None and not uri.endswith(".metadata.json")):
            return False
        return is_encodable(uri) and objects.is_bucket(uri)
    if uri.startswith(_CATALOGUED):
        return True
    return uri.startswith("/") and is_encodable(uri) and (os.path.isdir(uri) or uri.endswith(".metadata.json"))


def table_sources(table: OpenTable) -> list[Source]:
    """Return the files of a table as they lie there now.

    Raises:
        InputGone: one is missing.
        StoreError: the object store cannot be reached or refuses.
    """
    found = in_threads(_LOOKS_AT_ONCE, lambda file: _described(file.uri), table.files)
    sources = []
    for file, source in zip(table.files, found, strict=True):
        if source is None:
            raise InputGone(
                f"{file.uri} is missing, which {table.table.uri} has at version {table.table.version}.",
                "Name a newer version with --at, or put the file back: a clean-up may have removed it.",
            )
        sources.append(replace(source, constants=file.constants))
    return sources


def _described(uri: str) -> Source | None:
    if objects.is_object(uri):
        found = objects.describe(uri)
        return None if found is None else Source(uri=uri, size_bytes=found[0], etag=found[1])
    return _local(uri) if os.path.isfile(uri) else None


def local_path(uri: str) -> str:
    """Return the absolute path that an address names.

    Raises:
        InvalidInput: it names none.
    """
    if uri.startswith("file://"):
        host, slash, path = uri.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise InvalidInput(f"{shown(uri)} names no file of this machine.", "Give a path, or file:///PATH.")
        uri = f"/{unquote(path)}"
    elif "://" in uri:
        raise _no_address(uri)
    if "\0" in uri or not is_encodable(uri):
        raise InvalidInput(f"{shown(uri)} is not a path: it holds what is no character.", "Check the path.")
    return os.path.abspath(os.path.expanduser(uri))


def shown(uri: str) -> str:
    """Return an address that names nothing, for messages: text that can be no path may be a prompt."""
    if len(uri) <= _MAX_SHOWN and uri.isprintable():
        return uri
    return f"<a text of {len(uri):,} characters>"


def names_in(folder: str) -> list[str]:
    """Return names in a local folder; none if it does not exist or may not be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _no_address(uri: str) -> InvalidInput:
    scheme = uri.partition("://")[0].lower()
    if (known := {"gcs": "gs", "azure": "az", "wasb": "abfss", "wasbs": "abfss"}.get(scheme)) is not None:
        return InvalidInput(f"{shown(uri)} is not an address this program reads.", f"Write it as {known}://…")
    return InvalidInput(
        f"{shown(uri)} is not an address this program reads.", "Give a path, s3://bucket/prefix, gs://… or abfss://…"
    )


def _local(path: str) -> Source:
    return Source(uri=path, size_bytes=os.stat(path).st_size)


def _local_bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(saved_datasets.MAX_BYTES)
    except OSError:
        return None


def _saved(root: str, names: Iterable[str], read: Callable[[str], bytes | None]) -> list[str] | None:
    """Return the names of a saved dataset's files; None if the folder is none."""
    found = saved_datasets.record_in(names)
    data = None if found is None else read(f"{root.rstrip('/')}/{found}")
    return None if found is None or data is None else saved_datasets.files_of(root, found, data)


def _walk(root: str, left_out: LeftOut) -> Iterator[str]:
    """Yield every regular file below a directory; links to directories are not followed.

    Raises:
        InvalidInput: a folder cannot be read; or a path named like a data file is not a file, or leads out of `root`.
    """

    def explain(error: OSError) -> None:
        raise MissingInput(f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions.") from error

    inside = os.path.join(os.path.realpath(root), "")
    for folder, names, files in os.walk(root, onerror=explain):
        below = [os.path.relpath(os.path.join(folder, name), root) for name in names]
        tables.check_inside(root, [path for name in below for path in _with_contents(root, name)], names_in)
        left_out.add_hidden(name for name in [*names, *files] if _is_hidden(name))
        names[:] = [name for name in names if not _is_hidden(name)]
        for path in (os.path.join(folder, name) for name in files if not _is_hidden(name)):
            is_file = os.path.isfile(path)
            if tier_of(path) is not None and not is_file:
                raise _not_a_file(path)
            if tier_of(path) is not None and not os.path.realpath(path).startswith(inside):
                raise InvalidInput(
                    f"{path} is a link that leads out of {root}.",
                    f"If it belongs to the dataset, name the files themselves with a glob: '{root}/*'.",
                )
            if is_file:
                yield path


def _with_contents(root: str, folder: str) -> Iterator[str]:
    """Yield a folder, and the paths directly inside it if its name may be that of a table's log."""
    yield folder
    if tables.may_be_log(os.path.basename(folder)):
        yield from (os.path.join(folder, name) for name in names_in(os.path.join(root, folder)))


def _matches(pattern: str, base: str) -> Iterator[str]:
    """Yield paths that match a glob. With `**`, links to directories are not followed: they may form cycles."""
    if "**" not in pattern:
        yield from glob.iglob(pattern)
        return
    expression = _glob_expression(pattern)
    for folder, _, files in os.walk(base):
        yield from (path for name in files if expression.fullmatch(path := os.path.join(folder, name)))


def _not_a_file(path: str) -> InvalidInput:
    what = "is a link to nothing" if os.path.islink(path) and not os.path.exists(path) else "is not a regular file"
    return InvalidInput(f"{path} {what}.", "Remove it, or give a glob that leaves it out.")


def _find_objects(uri: str, part_of_table: bool) -> tuple[list[Source], LeftOut]:
    objects.check_address(uri)
    if not is_encodable(uri):
        raise InvalidInput(f"{shown(uri)} is not an address: it holds what is no character.", "Check the address.")
    if (size_and_etag := objects.describe(uri)) is not None:
        source = Source(uri=uri, size_bytes=size_and_etag[0], etag=size_and_etag[1])
        return _as_named([source], uri.rpartition("/")[0])
    if not glob.has_magic(uri):
        return _object_prefix(uri, _listed(f"{uri.rstrip('/')}/", uri), part_of_table)
    # A name that looks like a pattern goes first, as on disk.
    if literal := list(_objects(f"{uri.rstrip('/')}/")):
        return _object_prefix(uri, literal, part_of_table)
    pattern = _glob_expression(uri)
    fixed = _fixed_part(uri)
    base = fixed[: fixed.rindex("/") + 1]
    found = _visible(_listed(fixed, uri), base, LeftOut())
    if sources := [source for source in found if pattern.fullmatch(source.uri)]:
        return _as_named(sources, base)
    raise MissingInput(
        f"No object matches {shown(uri)}.", "Check the pattern; quote it, so that the shell leaves it alone."
    )


def _object_prefix(uri: str, found: list[Source], part_of_table: bool) -> tuple[list[Source], LeftOut]:
    base, left_out = f"{uri.rstrip('/')}/", LeftOut()
    paths = [source.uri.removeprefix(base) for source in found]
    tables.check_inside(uri, paths, objects.names_in)
    if not part_of_table:
        tables.check_above(uri, objects.names_in)
    if (saved := _saved(uri, paths, objects.read_small)) is not None:
        known = {source.uri: source for source in found}
        if lost := [name for name in saved if base + name not in known]:
            raise MissingInput(f"{base}{lost[0]} is missing, which the dataset's record names.", "Copy it again.")
        return [known[base + name] for name in saved], left_out
    return _data_files(uri, base, _visible(found, base, left_out), left_out)


def _objects(prefix: str) -> Iterator[Source]:
    for name, size, etag in objects.list_objects(prefix):
        yield Source(uri=name, size_bytes=size, etag=etag)


def _listed(prefix: str, uri: str) -> list[Source]:
    """List every object whose address starts with a prefix."""
    if not (found := list(_objects(prefix))):
        raise MissingInput(f"There is nothing at {shown(uri)}.", "Check the address.")
    return found


def _visible(sources: list[Source], base: str, left_out: LeftOut) -> list[Source]:
    """Return the sources that readers do not skip, in name order."""
    left_out.add_hidden(source.uri for source in sources if _is_hidden(source.uri.removeprefix(base)))
    visible = (source for source in sources if not _is_hidden(source.uri.removeprefix(base)))
    return sorted(visible, key=lambda source: source.uri)


def _as_named(sources: list[Source], base: str) -> tuple[list[Source], LeftOut]:
    """Return files that the user has named; of several, empty ones are left out."""
    left_out = LeftOut()
    full = [source for source in sources if source.size_bytes]
    if full and len(sources) > 1:
        left_out.add_empty(source.uri for source in sources if not source.size_bytes)
        sources = full
    return _with_folders(sources, base), left_out


def _data_files(uri: str, base: str, sources: list[Source], left_out: LeftOut) -> tuple[list[Source], LeftOut]:
    """Return the files of a folder that are its data."""
    named = [source for source in sources if tier_of(source.uri) is not None]
    data = [source for source in named if source.size_bytes]
    if not data:
        other = next(iter(named or sources), None)
        others = f"; it holds {os.path.basename(other.uri)}" if other else ""
        known = foreign.of_name(other.uri) if other and not named else None
        what, how = ("", "") if known is None else (f", which {known[0]}", f" {known[1]}")
        raise MissingInput(
            f"{uri} has no file of data{others}{', which is empty' if named else what}.",
            f"Names of data end in {ENDINGS}; name others with a glob.{how}",
        )
    tier = min(tier_of(source.uri) or 0 for source in data)
    chosen = [source for source in data if tier_of(source.uri) == tier]
    left_out.add_empty(source.uri for source in named if not source.size_bytes)
    read, empty = {*chosen}, {*named} - {*data}
    left_out.add_others(source.uri for source in sources if source not in read and source not in empty)
    left_out.splits = splits_in(source.uri for source in chosen)
    return _with_folders(chosen, base), left_out


def _with_folders(sources: Sequence[Source], base: str) -> list[Source]:
    return [replace(source, constants=values_of(source.uri, base)) for source in sources]


def _is_hidden(path: str) -> bool:
    """Return whether a part of a relative path is one that readers skip."""
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _fixed_part(pattern: str) -> str:
    """Return the part before the first wildcard: up to a slash in paths, anywhere in S3 keys."""
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    return fixed if objects.is_object(pattern) else fixed[: fixed.rindex("/") + 1]


def _glob_expression(pattern: str) -> re.Pattern[str]:
    """Return the glob as a regular expression: `*` and `?` stay within a folder, `**` is any depth."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    wild = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(
            wild[part] if part in wild else _character_class(part) if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        )
    )


def _character_class(part: str) -> str:
    inside = part[1:-1].replace("\\", r"\\")
    return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
