"""Reading of InternEvo's files without running anything from them.

Weights go through torch's safe unpickler (`weights_only`) and stay mapped, so that memory holds only what is used. The
sharded tensors that FSDP writes are not among its safe types: they are read as plain records of their pieces.

`model_config.pt` is often an instance of a class of the trainer, which that unpickler refuses in any case (it sets
items of plain dictionaries only). An unpickler of our own reads it, to which that class is a dictionary.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.errors import InvalidModel

_SHARDED = "torch.distributed._shard."
_TRUSTED = "Convert only checkpoints that InternEvo has written; nothing of this one was run."


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """The pieces of a tensor that one FSDP rank holds."""

    shape: tuple[int, ...]
    pieces: list[tuple[tuple[int, ...], torch.Tensor]]
    """Offset of each piece in the tensor, and the piece."""


class _Record:
    """An object in a file; only its state is kept."""

    state: Any = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        # Objects with slots have their state in the second of two places.
        self.state = state[1] if isinstance(state, tuple) and len(state) == 2 and state[0] is None else state


class _ShardedTensor(torch.Tensor):
    """A record that torch can make as a tensor without data."""

    state: Any

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise TypeError("it has no data")

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _member(*_: Any) -> type:
    """Return a record for what a file names as a member of a class, such as `ShardedTensor.ProcessGroupState`."""
    return _Record


_STAND_INS: list[Any] = [
    (_ShardedTensor, f"{_SHARDED}sharded_tensor.api.ShardedTensor"),
    (_Record, f"{_SHARDED}sharded_tensor.shard.Shard"),
    (_Record, f"{_SHARDED}metadata.ShardMetadata"),
    (_Record, f"{_SHARDED}sharded_tensor.metadata.ShardedTensorMetadata"),
    (_Record, f"{_SHARDED}sharded_tensor.metadata.TensorProperties"),
    (_Record, f"{_SHARDED}sharded_tensor.metadata.MEM_FORMAT_ENCODING"),
    (_Record, f"{_SHARDED}sharding_spec.chunk_sharding_spec.ChunkShardingSpec"),
    (_Record, f"{_SHARDED}sharding_spec.api.EnumerableShardingSpec"),
    (_Record, "torch.distributed.remote_device._remote_device"),
    (_member, "builtins.getattr"),
]


def load_weights(path: Path) -> dict[str, torch.Tensor | Pieces]:
    """Map the tensors of a file, by their names in it.

    Raises:
        InvalidModel: the file is damaged, or holds anything but tensors.
    """
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InvalidModel(f"{path} holds more than tensors: {_refused(error)}.", _TRUSTED) from error
    except Exception as error:
        raise InvalidModel(f"{path} cannot be read: {type(error).__name__}.", "Download it again.") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InvalidModel(f"{path} does not hold named tensors.", "Give a directory that InternEvo has written.")
    return {name: _tensor(path, name, value) for name, value in found.items()}


def _refused(error: Exception) -> str:
    """Return what the safe unpickler stumbled over, without torch's advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
    return lines[0].rstrip(".") if lines else "it is refused by torch's safe loading"


def _tensor(path: Path, name: str, value: Any) -> torch.Tensor | Pieces:
    if isinstance(value, torch.Tensor) and not isinstance(value, _ShardedTensor):
        return value
    try:
        shards, metadata, *_ = value.state
        pieces = [
            (tuple(shard.state["metadata"].state["shard_offsets"]), shard.state["tensor"].detach()) for shard in shards
        ]
        return Pieces(shape=tuple(metadata.state["size"]), pieces=pieces)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidModel(f"{name} in {path} is not a tensor.", _TRUSTED) from error


def load_config(path: Path) -> dict[str, Any] | None:
    """Read `model_config.pt` as a dictionary; return None if there is no such file.

    Raises:
        InvalidModel: it is damaged, or holds anything but plain values and types of torch.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            found = _ConfigUnpickler(io.BytesIO(archive.read(name))).load()
    except InvalidModel:
        raise
    except Exception as error:
        raise InvalidModel(f"{path} cannot be read: {type(error).__name__}.", "Download it again.") from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{path} does not hold a configuration.", "Give a directory that InternEvo has written.")
    return dict(found)


class _Config(dict[Any, Any]):
    """Stand-in for the trainer's dictionary with attributes."""

    def __setstate__(self, state: Any) -> None: ...


class _ConfigUnpickler(pickle.Unpickler):
    """An unpickler that knows dictionaries, torch's data types and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("internlm.") and name == "Config":
            return _Config
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise InvalidModel(f"model_config.pt names {module}.{name}, which no configuration needs.", _TRUSTED)

    def persistent_load(self, pid: Any) -> Any:
        raise InvalidModel("model_config.pt holds tensors, which no configuration needs.", _TRUSTED)
