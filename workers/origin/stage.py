"""The tensors of one pipeline stage: put together from the files of its ranks, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

from jobs.errors import InvalidModel
from workers.origin.files import Part
from workers.origin.reading import Pieces, load_weights

_LAYER = re.compile(r"layers\.(\d+)\..+")
_CHUNK = re.compile(r"\d+\..*")
_KNOWN = re.compile(
    r"(tok_embeddings|norm|output|layers\.\d+\.(attention\.(wqkv|wq|wk|wv|wo)|feed_forward\.w[123]|attention_norm"
    r"|ffn_norm))\.weight"
)


class Stage:
    """The mapped files of one stage. Names are InternEvo's, without the prefix `model.`; layers count from 0."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._files = [_read(part) for part in parts]
        self._names = {name for file in self._files for name in file}

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return max((int(found[1]) + 1 for name in self._names if (found := _LAYER.fullmatch(name))), default=0)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def join(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a whole tensor.

        Raises:
            InvalidModel: a rank lacks it, or its parts do not make up this shape.
        """
        parts = self._of_ranks(name)
        for rank_of in (lambda part: part.wp, lambda part: part.tp):
            parts_of_axis = _first_of_each(parts, rank_of)
            if (dim := _cut(parts_of_axis, shape)) is not None:
                return self._equal(name, parts) if dim < 0 else torch.cat(parts_of_axis, dim=dim)
        raise InvalidModel(
            f"{name} has parts of shape {', '.join(sorted({str(tuple(part.shape)) for _, part in parts}))} in "
            f"{self._parts[0].path.parent}, which do not make up {shape}.",
            "Give the config.json of the same model, and all files of the checkpoint.",
        )

    def join_by_rank(self, names: Sequence[str], shape: tuple[int, ...]) -> torch.Tensor:
        """Return a whole matrix of which each rank has consecutive rows, cut into several tensors.

        Raises:
            InvalidModel: as `join`.
        """
        found = [self._of_ranks(name) for name in names]
        ranks = [(part, torch.cat([tensors[n][1] for tensors in found])) for n, (part, _) in enumerate(found[0])]
        for rank_of in (lambda part: part.wp, lambda part: part.tp):
            parts_of_axis = _first_of_each(ranks, rank_of)
            if _cut(parts_of_axis, shape) in (0, -1):
                return torch.cat(parts_of_axis)
        raise InvalidModel(
            f"{', '.join(names)} in {self._parts[0].path.parent} do not make up {shape}.",
            "Give the config.json of the same model, and all files of the checkpoint.",
        )

    def dtypes(self) -> set[torch.dtype]:
        """Return the data types of all tensors."""
        held = [value for file in self._files for value in file.values()]
        whole = {value.dtype for value in held if isinstance(value, torch.Tensor)}
        return whole | {piece.dtype for value in held if isinstance(value, Pieces) for _, piece in value.pieces}

    def _equal(self, name: str, parts: Sequence[tuple[Part, torch.Tensor]]) -> torch.Tensor:
        """Return a tensor that every rank has whole."""
        (_, first), *others = parts
        for part, other in others:
            if not torch.equal(first, other):
                raise InvalidModel(
                    f"{name} is not the same in {part.path} as in the files beside it.",
                    "Do not mix checkpoints; download the directory again.",
                )
        return first

    def _of_ranks(self, name: str) -> list[tuple[Part, torch.Tensor]]:
        """Return the tensor of each tensor- or weight-parallel rank, put together over its FSDP ranks."""
        ranks: dict[tuple[int | None, int | None], list[tuple[Part, torch.Tensor | Pieces]]] = {}
        for part, file in zip(self._parts, self._files, strict=True):
            if name not in file:
                raise InvalidModel(f"{part.path} has no {name}.", "Finish the download, or give the right config.json.")
            ranks.setdefault((part.wp, part.tp), []).append((part, file[name]))
        return [(found[0][0], _whole(name, found)) for found in ranks.values()]


def _read(part: Part) -> dict[str, torch.Tensor | Pieces]:
    """Map a file's tensors, by their names without prefixes.

    Raises:
        InvalidModel: it has tensors that InternLM2 has not, or was written with several pipeline chunks a stage.
    """
    found = {}
    for stored, value in load_weights(part.path).items():
        name = stored.removeprefix("model.").replace("tok_embeddings.word_embeddings.", "tok_embeddings.")
        if _CHUNK.fullmatch(name):
            raise InvalidModel(
                f"{part.path} has {stored}: it was written with several pipeline chunks a stage, so that the layer of "
                "a tensor cannot be told.",
                "Save it with num_chunks=1.",
            )
        if name.endswith(".inv_freq"):
            continue
        if not _KNOWN.fullmatch(name):
            raise InvalidModel(f"{part.path} has {stored}, which InternLM2 has not.", "Use an InternLM2 checkpoint.")
        found[name] = value
    return found


def _first_of_each(
    parts: Sequence[tuple[Part, torch.Tensor]], rank_of: Callable[[Part], int | None]
) -> list[torch.Tensor]:
    """Return one tensor of each rank, in the order of ranks."""
    found: dict[int, torch.Tensor] = {}
    for part, tensor in parts:
        found.setdefault(rank_of(part) or 0, tensor)
    return [found[rank] for rank in sorted(found)]


def _cut(parts: Sequence[torch.Tensor], shape: tuple[int, ...]) -> int | None:
    """Return the dimension along which parts are cut, -1 if each is whole, None if they do not make up the shape."""
    shapes = {tuple(part.shape) for part in parts}
    if shapes == {shape}:
        return -1
    for dim in range(len(shape)):
        others = {(*found[:dim], *found[dim + 1 :]) for found in shapes if len(found) == len(shape)}
        if others == {(*shape[:dim], *shape[dim + 1 :])} and sum(part.shape[dim] for part in parts) == shape[dim]:
            return dim
    return None


def _whole(name: str, found: Sequence[tuple[Part, torch.Tensor | Pieces]]) -> torch.Tensor:
    """Put a tensor together from the pieces of FSDP ranks."""
    first = found[0][1]
    if isinstance(first, torch.Tensor):
        return first
    dtype = next((piece.dtype for _, held in found if isinstance(held, Pieces) for _, piece in held.pieces), None)
    whole = torch.empty(first.shape, dtype=dtype)
    filled = 0
    for part, held in found:
        if not isinstance(held, Pieces) or held.shape != first.shape:
            raise InvalidModel(
                f"{name} in {part.path} is of another model than the files beside it.", "Do not mix them."
            )
        for offset, piece in held.pieces:
            whole[tuple(slice(at, at + size) for at, size in zip(offset, piece.shape, strict=True))] = piece
            filled += piece.numel()
    if filled != whole.numel():
        raise InvalidModel(
            f"{name} is incomplete: {found[0][0].path.parent} has {filled:,} of its {whole.numel():,} values.",
            "Finish the download: one file of each FSDP rank.",
        )
    return whole
