"""Finding and opening the files behind an address: a file, a directory, a glob, or the same on S3."""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from jobs.buckets import is_name
from jobs.dataset import foreign, s3_files, tables
from jobs.errors import InvalidInput, MissingInput
from jobs.values.cells import is_encodable

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
JSONL_SUFFIXES = (".jsonl", ".ndjson")

_MAX_SHOWN = 300


class InputChanged(InvalidInput):
    """The dataset is not the one that was planned."""


class InputGone(InputChanged, MissingInput):
    """A planned file is missing; it may come back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a dataset.

    Attributes:
        uri: absolute path or `s3://bucket/key`.
        etag: S3's ETag without quotes; None for local files.
    """

    uri: str
    size_bytes: int
    etag: str | None = None

    @property
    def is_jsonl(self) -> bool:
        """Return whether the name says JSON lines; everything else must be Parquet."""
        return self.uri.lower().endswith(JSONL_SUFFIXES)


def find_sources(uri: str, *, part_of_table: bool = False) -> tuple[list[Source], int]:
    """Find the dataset's files in name order, and count the other files among them.

    A directory or prefix is searched at any depth for Parquet and JSONL names; a file or glob is taken as named.
    Names that start with `_` or `.` are skipped, unless the address itself holds them. A directory that is a table
    with a log, holds one or is part of one is refused: its files alone differ from the table's content.

    Args:
        part_of_table: skip the check that a directory is not part of a table.

    Raises:
        InvalidInput: nothing there, no such files, or a table.
        StoreError: S3 cannot be reached or refuses.
    """
    if uri.startswith("s3://"):
        return _find_on_s3(uri, part_of_table)
    path = _local_path(uri)
    if os.path.isfile(path):
        return [_local(path)], 0
    if os.path.isdir(path):
        if not part_of_table:
            tables.check_above(os.path.realpath(path), _names_in)
        return _data_files(uri, [_local(found) for found in sorted(_walk(path))])
    if os.path.lexists(path):
        raise _not_a_file(path)
    if glob.has_magic(path):
        base = _fixed_part(path)
        found = [name for name in _matches(path, base) if os.path.isfile(name)]
        if sources := [_local(name) for name in sorted(found) if not _is_hidden(name.removeprefix(base))]:
            return sources, 0
        raise MissingInput(
            f"No file matches {_shown(uri)}.", "Check the pattern; quote it, so that the shell leaves it alone."
        )
    raise MissingInput(f"There is no file or directory {_shown(uri)}.", "Check the path.")


def open_source(source: Source) -> io.BufferedReader:
    """Open the file for reading, seekable.

    Raises:
        InputChanged: its size or ETag differs from when it was found. On S3 reads may raise it too.
        InputGone: gone since it was found.
        MissingInput: it may not be read.
        StoreError: S3 cannot be reached or refuses.
    """
    what = f"{source.uri} has changed since it was looked at"
    changed = InputChanged(f"{what}.", "Submit it as a new job.")
    gone = InputGone(f"{what}: it is gone.", "Put it back, or mount what it lies on.")
    if source.etag is not None:
        return s3_files.open_object(source.uri, source.size_bytes, source.etag, changed, gone)
    try:
        # O_NONBLOCK: a pipe that has replaced the file must not block us.
        file = os.fdopen(os.open(source.uri, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError as error:
        raise gone from error
    except OSError as error:
        raise MissingInput(f"{source.uri} cannot be read: {error.strerror}.", "Check its permissions.") from error
    status = os.fstat(file.fileno())
    if status.st_size != source.size_bytes or not stat.S_ISREG(status.st_mode):
        file.close()
        raise changed
    return file


def _local(path: str) -> Source:
    return Source(uri=path, size_bytes=os.stat(path).st_size)


def _local_path(uri: str) -> str:
    """Return the absolute path that an address names."""
    if uri.startswith("file://"):
        host, slash, path = uri.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise InvalidInput(f"{_shown(uri)} names no file of this machine.", "Give a path, or file:///PATH.")
        uri = f"/{unquote(path)}"
    elif "://" in uri:
        raise InvalidInput(f"{_shown(uri)} is not an address this program reads.", "Give a path or s3://bucket/prefix.")
    if "\0" in uri or not is_encodable(uri):
        raise InvalidInput(f"{_shown(uri)} is not a path: it holds what is no character.", "Check the path.")
    return os.path.abspath(os.path.expanduser(uri))


def _shown(uri: str) -> str:
    """Return an address that names nothing, for messages: text that can be no path may be a prompt."""
    if len(uri) <= _MAX_SHOWN and uri.isprintable():
        return uri
    return f"<a text of {len(uri):,} characters>"


def _walk(root: str) -> Iterator[str]:
    """Yield every regular file below a directory; links to directories are not followed.

    Raises:
        InvalidInput: a folder cannot be read; or a path named like a data file is not a file, or leads out of `root`.
    """

    def explain(error: OSError) -> None:
        raise MissingInput(f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions.") from error

    inside = os.path.join(os.path.realpath(root), "")
    for folder, names, files in os.walk(root, onerror=explain):
        below = [os.path.relpath(os.path.join(folder, name), root) for name in names]
        tables.check_inside(root, [path for name in below for path in _with_contents(root, name)], _names_in)
        names[:] = [name for name in names if not _is_hidden(name)]
        for path in (os.path.join(folder, name) for name in files if not _is_hidden(name)):
            is_file = os.path.isfile(path)
            if _is_data(path) and not is_file:
                raise _not_a_file(path)
            if _is_data(path) and not os.path.realpath(path).startswith(inside):
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
        yield from (os.path.join(folder, name) for name in _names_in(os.path.join(root, folder)))


def _names_in(folder: str) -> list[str]:
    """Return names in a folder; none if it does not exist or may not be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


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


def _find_on_s3(uri: str, part_of_table: bool) -> tuple[list[Source], int]:
    if not is_name(uri.removeprefix("s3://").partition("/")[0]):
        # Not quoted: an invalid bucket name may be a key and its secret.
        raise InvalidInput("The address names no bucket.", "Write s3://bucket/prefix.")
    if not is_encodable(uri):
        raise InvalidInput(f"{_shown(uri)} is not an address: it holds what is no character.", "Check the address.")
    if (size_and_etag := s3_files.describe(uri)) is not None:
        return [Source(uri=uri, size_bytes=size_and_etag[0], etag=size_and_etag[1])], 0
    if not glob.has_magic(uri):
        base = f"{uri.rstrip('/')}/"
        found = _listed(base, base)
        tables.check_inside(uri, [source.uri.removeprefix(base) for source in found], s3_files.names_in)
        if not part_of_table:
            tables.check_above(uri, s3_files.names_in)
        return _data_files(uri, _visible(found, base))
    pattern = _glob_expression(uri)
    fixed = _fixed_part(uri)
    found = _visible(_listed(fixed, uri), fixed[: fixed.rindex("/") + 1])
    if sources := [source for source in found if pattern.fullmatch(source.uri)]:
        return sources, 0
    raise MissingInput(
        f"No object matches {_shown(uri)}.", "Check the pattern; quote it, so that the shell leaves it alone."
    )


def _listed(prefix: str, uri: str) -> list[Source]:
    """List every object whose address starts with a prefix."""
    found = [Source(uri=name, size_bytes=size, etag=etag) for name, size, etag in s3_files.list_objects(prefix)]
    if not found:
        raise MissingInput(f"There is nothing at {_shown(uri)}.", "Check the address.")
    return found


def _visible(sources: list[Source], base: str) -> list[Source]:
    """Return the sources that readers do not skip, in name order."""
    visible = (source for source in sources if not _is_hidden(source.uri.removeprefix(base)))
    return sorted(visible, key=lambda source: source.uri)


def _data_files(uri: str, sources: list[Source]) -> tuple[list[Source], int]:
    data = [source for source in sources if _is_data(source.uri)]
    if not data:
        others = f"; it holds {os.path.basename(sources[0].uri)}" if sources else ""
        known = foreign.of_name(sources[0].uri) if sources else None
        what, how = ("", "") if known is None else (f", which {known[0]}", f" {known[1]}")
        raise MissingInput(
            f"{uri} has no Parquet or JSONL file{others}{what}.",
            f"Files must end in {', '.join(PARQUET_SUFFIXES + JSONL_SUFFIXES)}; name others with a glob.{how}",
        )
    return data, len(sources) - len(data)


def _is_data(path: str) -> bool:
    return path.lower().endswith(PARQUET_SUFFIXES + JSONL_SUFFIXES)


def _is_hidden(path: str) -> bool:
    """Return whether a part of a relative path is one that readers skip."""
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _fixed_part(pattern: str) -> str:
    """Return the part before the first wildcard: up to a slash in paths, anywhere in S3 keys."""
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    return fixed if pattern.startswith("s3://") else fixed[: fixed.rindex("/") + 1]


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
