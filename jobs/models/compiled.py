"""Compiled code beside a model snapshot: archives, and a manifest whose hash a job's spec pins.

Compiled code runs in the engine's process, so it is trusted only as far as the submitter vouches for it: a job loads
the archives that the manifest names, if manifest and archive have the hashes that were pinned. Nothing else is opened.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from jobs.errors import InvalidModel
from schemas.compiled import CompiledFor, CompiledManifest, CompiledPack

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_PACK_BYTES = 16 << 30
_COPY_BYTES = 1 << 20
_SKIPPED = frozenset({"locks"})
_WITH_PATHS = "vllm_compile_cache.py"
"""Index of vLLM's cache; some versions (0.26) write the absolute paths of compiled graphs into it."""

_HERE = b"@NIGHTBATCH-CACHE@"
"""Stands in an archive for the directory that the cache lies in."""

_AGAIN = "Run `jobs model warm-up DIR` again and submit a new job. This one goes on and compiles by itself."


class InvalidCompiled(InvalidModel):
    """Compiled code that is not what was pinned; it is not loaded."""


def folder_of(model_dir: str | Path) -> Path:
    """Return the directory of a model's compiled code, beside the snapshot, which holds its own files only."""
    path = Path(model_dir).resolve()
    return path.with_name(f"{path.name}.compiled")


def manifest_digest(model_dir: str | Path) -> str | None:
    """Return the hash by which a job pins the compiled code of a model; None if there is none."""
    data = _manifest_bytes(model_dir)
    return None if data is None else _digest(data)


def add_pack(model_dir: str | Path, made_for: CompiledFor, cache: Path) -> CompiledPack:
    """Archive an engine's cache directory beside the model and name the archive in a new manifest.

    Earlier archives for the same model, engine and device stay: they may be of other engine options.
    """
    folder = folder_of(model_dir)
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as work:
        archive = Path(work) / "pack.tar"
        with tarfile.open(archive, "w") as tar:
            for path in _files(cache):
                if path.name == _WITH_PATHS:
                    _replace(path, os.fsencode(cache), _HERE)
                tar.add(path, arcname=str(path.relative_to(cache)), recursive=False, filter=_plain)
        with archive.open("rb") as file:
            name = f"{hashlib.file_digest(file, 'sha256').hexdigest()}.tar"
        pack = CompiledPack(file=name, size_bytes=archive.stat().st_size, made_for=made_for)
        archive.chmod(0o444)
        archive.replace(folder / name)
        standing = _standing(model_dir)
        packs = (*(each for each in standing.packs if each.file != name), pack)
        manifest = Path(work) / MANIFEST
        manifest.write_bytes(CompiledManifest(packs=packs).to_json())
        manifest.replace(folder / MANIFEST)
    return pack


def restore(model_dir: str | Path, pinned: str, made_for: CompiledFor, local: Path) -> Path | None:
    """Unpack the archives that fit onto this node; return the cache directory, or None if none fits.

    What this node has unpacked before is used again. Nothing is written beside the model.

    Args:
        pinned: hash of the manifest, from the job's spec.
        local: directory of this node for caches of all models; only this user may write there.

    Raises:
        InvalidCompiled: manifest or archive differ from what was pinned, or are missing.
        OSError: the disk of this node is full, or cannot be written.
    """
    packs = [pack for pack in _pinned(model_dir, pinned).packs if pack.made_for == made_for]
    if not packs:
        return None
    key = hashlib.sha256("".join(sorted(pack.file for pack in packs)).encode()).hexdigest()[:16]
    target = local / key
    if target.is_dir():
        return target
    local.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _new_folder(local, key) as work:
        for pack in packs:
            _unpack(folder_of(model_dir) / pack.file, pack, work)
        for path in work.rglob(_WITH_PATHS):
            _replace(path, _HERE, os.fsencode(target))
        with suppress(OSError):  # another replica of this node was faster
            work.replace(target)
    return target


def _replace(path: Path, old: bytes, new: bytes) -> None:
    """Replace text in a small file."""
    path.write_bytes(path.read_bytes().replace(old, new))


def _unpack(archive: Path, pack: CompiledPack, target: Path) -> None:
    """Copy an archive to this node, check the copy, and extract that: the original may change meanwhile."""
    with tempfile.TemporaryFile(dir=target.parent) as copy:
        digest = hashlib.sha256()
        try:
            with archive.open("rb") as file:
                while piece := file.read(_COPY_BYTES):
                    digest.update(piece)
                    copy.write(piece)
                    if copy.tell() > min(pack.size_bytes, MAX_PACK_BYTES):
                        break
        except OSError as error:
            raise InvalidCompiled(f"{archive} cannot be read ({error.strerror}).", _AGAIN) from error
        if f"{digest.hexdigest()}.tar" != pack.file:
            raise InvalidCompiled(f"{archive} does not have the hash that its manifest names.", _AGAIN)
        copy.seek(0)
        try:
            with tarfile.open(fileobj=copy, mode="r:") as tar:
                tar.extractall(target, filter="data")
        except tarfile.TarError as error:
            raise InvalidCompiled(f"{archive} cannot be unpacked ({type(error).__name__}).", _AGAIN) from error


def _pinned(model_dir: str | Path, pinned: str) -> CompiledManifest:
    data = _manifest_bytes(model_dir)
    if data is None:
        raise InvalidCompiled(f"{folder_of(model_dir) / MANIFEST} is missing.", _AGAIN)
    if _digest(data) != pinned:
        raise InvalidCompiled(f"{folder_of(model_dir) / MANIFEST} has changed since the job was submitted.", _AGAIN)
    return _parsed(data, model_dir)


def _standing(model_dir: str | Path) -> CompiledManifest:
    data = _manifest_bytes(model_dir)
    return CompiledManifest() if data is None else _parsed(data, model_dir)


def _parsed(data: bytes, model_dir: str | Path) -> CompiledManifest:
    try:
        return CompiledManifest.from_json(data)
    except ValidationError as error:
        path = folder_of(model_dir)
        raise InvalidCompiled(
            f"{path / MANIFEST} is damaged or of a newer version.", f"Delete {path} and warm up again."
        ) from error


def _manifest_bytes(model_dir: str | Path) -> bytes | None:
    try:
        with (folder_of(model_dir) / MANIFEST).open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES)
    except OSError:
        return None


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _files(cache: Path) -> Iterator[Path]:
    for path in sorted(cache.rglob("*")):
        inside = path.relative_to(cache).parts
        if path.is_file() and not path.is_symlink() and not _SKIPPED.intersection(inside) and path.suffix != ".tmp":
            yield path


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the file and when: equal caches give equal archives."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry


@contextmanager
def _new_folder(parent: Path, name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
