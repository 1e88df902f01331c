"""Finding and opening the files behind an address: a file, a directory, a glob, or the same on S3."""

from __future__ import annotations

import glob
import io
import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from jobs.dataset import s3_files
from jobs.errors import InvalidInput

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
JSONL_SUFFIXES = (".jsonl", ".ndjson")


class InputChanged(InvalidInput):
    """The dataset is not the one that was planned."""


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
        """Whether the name says JSON lines; everything else must be Parquet."""
        return self.uri.lower().endswith(JSONL_SUFFIXES)


def find_sources(uri: str) -> tuple[list[Source], int]:
    """The dataset's files in name order, and how many others lie among them.

    A directory or prefix is searched at any depth for Parquet and JSONL names; a file or glob is taken as named.
    Names that start with `_` or `.` are skipped, unless the address itself holds them.

    Raises:
        InvalidInput: nothing there, or no such files.
        StoreError: S3 cannot be reached or refuses.
    """
    if uri.startswith("s3://"):
        return _find_on_s3(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise InvalidInput(f"{uri!r} is not an address this program reads.", "Give a path or s3://bucket/prefix.")
    path = os.path.abspath(os.path.expanduser(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri))
    if os.path.isfile(path):
        return [_local(path)], 0
    if os.path.isdir(path):
        return _data_files(uri, [_local(found) for found in _walk(path)])
    if glob.has_magic(path):
        base = _fixed_part(path)
        found = [name for name in glob.iglob(path, recursive=True) if os.path.isfile(name)]
        if sources := [_local(name) for name in sorted(found) if not _is_hidden(name.removeprefix(base))]:
            return sources, 0
        raise InvalidInput(f"No file matches {uri}.", "Check the pattern; quote it, so that the shell leaves it alone.")
    raise InvalidInput(f"There is no file or directory {uri}.", "Check the path.")


def open_source(source: Source) -> io.BufferedReader:
    """The file's bytes, seekable.

    Raises:
        InputChanged: gone, or of another size or ETag than when it was found. On S3 reads may raise it too.
        InvalidInput: may not be read.
        StoreError: S3 cannot be reached or refuses.
    """
    changed = InputChanged(f"{source.uri} has changed since it was looked at.", "Submit it as a new job.")
    if source.etag is not None:
        return s3_files.open_object(source.uri, source.size_bytes, source.etag, changed)
    try:
        file = open(source.uri, "rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError as error:
        raise changed from error
    except OSError as error:
        raise InvalidInput(f"{source.uri} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if os.fstat(file.fileno()).st_size != source.size_bytes:
        file.close()
        raise changed
    return file


def _local(path: str) -> Source:
    return Source(uri=path, size_bytes=os.stat(path).st_size)


def _walk(root: str) -> list[str]:
    def explain(error: OSError) -> None:
        raise InvalidInput(f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions.") from error

    found = []
    for folder, names, files in os.walk(root, onerror=explain):
        names[:] = [name for name in names if not _is_hidden(name)]
        found += [os.path.join(folder, name) for name in files if not _is_hidden(name)]
    return sorted(path for path in found if os.path.isfile(path))


def _find_on_s3(uri: str) -> tuple[list[Source], int]:
    if not urlsplit(uri).netloc:
        raise InvalidInput(f"{uri!r} names no bucket.", "Write s3://bucket/prefix.")
    if (size_and_etag := s3_files.describe(uri)) is not None:
        return [Source(uri=uri, size_bytes=size_and_etag[0], etag=size_and_etag[1])], 0
    if not glob.has_magic(uri):
        base = f"{uri.rstrip('/')}/"
        return _data_files(uri, _listed(base, base))
    pattern = _glob_expression(uri)
    if sources := [source for source in _listed(_fixed_part(uri), uri) if pattern.fullmatch(source.uri)]:
        return sources, 0
    raise InvalidInput(f"No object matches {uri}.", "Check the pattern; quote it, so that the shell leaves it alone.")


def _listed(prefix: str, uri: str) -> list[Source]:
    base = prefix[: prefix.rindex("/") + 1]
    found = [Source(uri=name, size_bytes=size, etag=etag) for name, size, etag in s3_files.list_objects(prefix)]
    if not found:
        raise InvalidInput(f"There is nothing at {uri}.", "Check the address.")
    visible = (source for source in found if not _is_hidden(source.uri.removeprefix(base)))
    return sorted(visible, key=lambda source: source.uri)


def _data_files(uri: str, sources: list[Source]) -> tuple[list[Source], int]:
    data = [source for source in sources if source.uri.lower().endswith(PARQUET_SUFFIXES + JSONL_SUFFIXES)]
    if not data:
        others = f"; it holds {os.path.basename(sources[0].uri)}" if sources else ""
        raise InvalidInput(
            f"{uri} has no Parquet or JSONL file{others}.",
            f"Files must end in {', '.join(PARQUET_SUFFIXES + JSONL_SUFFIXES)}; name others with a glob.",
        )
    return data, len(sources) - len(data)


def _is_hidden(path: str) -> bool:
    """Whether a part of a relative path is one that readers skip."""
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _fixed_part(pattern: str) -> str:
    """What stands before the first wildcard, up to a slash in paths; keys of S3 may break anywhere."""
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    return fixed if pattern.startswith("s3://") else fixed[: fixed.rindex("/") + 1]


def _glob_expression(pattern: str) -> re.Pattern[str]:
    """The glob as a regular expression: `*` and `?` stay within a folder, `**` is any depth."""
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
