"""Model directories as jobs use them: checked before anything starts, and pinned by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import Field, ValidationError

from jobs.errors import InvalidModel, MissingModel
from jobs.models.config import ModelInfo, load_info, read_json
from schemas.base import Document

SNAPSHOT = "snapshot.json"
INDEX = "model.safetensors.index.json"

_PINNED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PREPARE = "Run `jobs model prepare SRC DST` and use DST."


class SnapshotFile(Document):
    """One file of a snapshot."""

    name: str
    size_bytes: int = Field(ge=0)
    sha256: str


class Snapshot(Document):
    """`snapshot.json`: every other file of the directory."""

    format_version: int = 1
    model_type: str
    files: tuple[SnapshotFile, ...]


def check_model(model_dir: str | Path, *, weights: bool = True) -> ModelInfo:
    """Check that the directory can be used as it is: configuration, native tokenizer, complete safetensors.

    Reads no weights. `weights=False` is for engines that generate their own.

    Raises:
        InvalidModel: what is wrong and what to do about it.
    """
    path = Path(model_dir)
    info = load_info(path)
    if not (path / "tokenizer.json").is_file():
        remote = (path / "tokenizer.model").is_file() or any(path.glob("tokenization_*.py"))
        raise MissingModel(
            f"{path} has no tokenizer.json" + (", only a tokenizer that needs code of its own." if remote else "."),
            _PREPARE if remote else "Use a model with a native tokenizer.json.",
        )
    if weights:
        weight_files(path)
    return info


def weight_files(model_dir: Path) -> list[Path]:
    """List the safetensors files of a model, in name order.

    Raises:
        InvalidModel: there are none, some named in the index are missing, or all weights are in pickle files.
    """
    index = model_dir / INDEX
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (model_dir / name).is_file()]
        if missing or not shards:
            raise MissingModel(
                f"{len(missing)} of {len(shards)} weight files of {model_dir} are missing, {missing[0]} first."
                if missing
                else f"{index} names no weight files.",
                "Finish the download.",
            )
        return [model_dir / name for name in shards]
    if found := sorted(model_dir.glob("*.safetensors")):
        return found
    if any(any(model_dir.glob(pattern)) for pattern in _PICKLES):
        raise InvalidModel(
            f"{model_dir} has its weights in pickle files, which can run code when they are loaded.",
            "Download the safetensors version of the model. An InternEvo ('Origin') checkpoint is converted by "
            "`jobs model prepare SRC DST --config config.json --tokenizer tokenizer.model`.",
        )
    raise MissingModel(f"{model_dir} has no weights (*.safetensors).", "Finish the download.")


def fingerprint(model_dir: str | Path, *, weights: bool = True) -> str:
    """Return `sha256:…` over what decides the model's answers.

    A prepared snapshot is pinned by `snapshot.json`, which holds the hash of every file; file sizes are checked here,
    hashes by `verify`. In other directories the small files are hashed, and the weight files are represented by name
    and size: reading 40 GB at every submit is not worth what it would find.

    Raises:
        InvalidModel: see `check_model`.
    """
    path = Path(model_dir)
    check_model(path, weights=weights)
    digest = hashlib.sha256()
    if (path / SNAPSHOT).is_file():
        _check_sizes(path, weights=weights)
        digest.update((path / SNAPSHOT).read_bytes())
        return f"sha256:{digest.hexdigest()}"
    for name in _PINNED_FILES:
        if (path / name).is_file():
            digest.update(f"{name} {hashlib.sha256((path / name).read_bytes()).hexdigest()}\n".encode())
    sizes = {file.name: file.stat().st_size for file in weight_files(path)} if weights else {}
    digest.update(json.dumps(sizes, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def write_snapshot(target: Path) -> Snapshot:
    """Hash every file of the directory into `snapshot.json`."""
    files = tuple(
        SnapshotFile(name=path.name, size_bytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(target.iterdir())
        if path.is_file() and path.name != SNAPSHOT
    )
    snapshot = Snapshot(model_type=load_info(target).model_type, files=files)
    (target / SNAPSHOT).write_bytes(snapshot.to_json())
    return snapshot


def verify(model_dir: str | Path) -> Snapshot:
    """Compare every file of a snapshot with its hash.

    Raises:
        InvalidModel: no snapshot, or a file that is missing, changed or not part of it.
    """
    path = Path(model_dir)
    snapshot = _load(path)
    known = {file.name for file in snapshot.files}
    wrong = [f"{file.name} ({problem})" for file in snapshot.files if (problem := _problem(path, file, hashes=True))]
    wrong += [f"{one.name} (not part of the snapshot)" for one in path.iterdir() if one.name not in {*known, SNAPSHOT}]
    _refuse(path, wrong)
    return snapshot


def _check_sizes(model_dir: Path, *, weights: bool) -> None:
    files = [file for file in _load(model_dir).files if weights or not file.name.endswith(".safetensors")]
    _refuse(
        model_dir,
        [f"{file.name} ({problem})" for file in files if (problem := _problem(model_dir, file, hashes=False))],
    )


def _load(model_dir: Path) -> Snapshot:
    path = model_dir / SNAPSHOT
    if not path.is_file():
        raise InvalidModel(f"{model_dir} has no {SNAPSHOT}.", "Run `jobs model prepare SRC DST` to make a snapshot.")
    try:
        return Snapshot.from_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidModel(f"{path} is damaged or of a newer version.", "Prepare the model again.") from error


def _refuse(model_dir: Path, wrong: list[str]) -> None:
    if wrong:
        raise InvalidModel(f"{model_dir} differs from its snapshot: {', '.join(sorted(wrong))}.", "Prepare it again.")


def _problem(model_dir: Path, file: SnapshotFile, *, hashes: bool) -> str:
    path = model_dir / file.name
    if not path.is_file():
        return "missing"
    if path.stat().st_size != file.size_bytes:
        return "another size"
    return "another hash" if hashes and _sha256(path) != file.sha256 else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
