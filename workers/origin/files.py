"""File names of an InternEvo checkpoint: which rank of which kind of parallelism wrote each file.

The names are those of `internlm/checkpoint/components.py` in InternEvo, at commits c628a8c (`model_tp*_pp*.pt`, with
`_wp*` before the stage for weight parallelism and `_dp*` after it for FSDP) and 035e1566 (`model_wp*_pp*.pt`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import InvalidModel

_NAME = re.compile(r"model_(?:tp(?P<tp>\d+)_)?(?:wp(?P<wp>\d+)_)?pp(?P<pp>\d+)(?:_dp(?P<dp>\d+))?\.pt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file of weights.

    Attributes:
        tp: rank in its tensor-parallel group; `wp`: in its weight-parallel group; `dp`: in its FSDP group. None if the
            name has no such rank.
        pp: pipeline stage.
    """

    path: Path
    tp: int | None
    wp: int | None
    pp: int
    dp: int | None


def find_stages(source: Path) -> list[list[Part]]:
    """Return the files of weights by pipeline stage, each stage in the order of its ranks.

    Raises:
        InvalidModel: there are none, a rank is missing, or the model has experts.
    """
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    if experts := [name for name in names if name.startswith("model_moe_")]:
        raise InvalidModel(
            f"{source} is a mixture of experts ({experts[0]}), which InternLM2 is not.", "Use an InternLM2 checkpoint."
        )
    parts = [part for name in names if (part := _parse(source / name)) is not None]
    if not parts:
        raise InvalidModel(f"{source} has no weights (model_tp*_pp*.pt).", "Finish the download.")
    for kind in ("pp", "tp", "wp", "dp"):
        _check_ranks(source, kind, {getattr(part, kind) for part in parts})
    stages: dict[int, list[Part]] = defaultdict(list)
    for part in sorted(parts, key=lambda part: (part.wp or 0, part.tp or 0, part.dp or 0)):
        stages[part.pp].append(part)
    ranks = [{(part.tp, part.wp, part.dp) for part in stages[pp]} for pp in sorted(stages)]
    for stage, found in enumerate(ranks):
        if missing := set().union(*ranks) - found:
            tp, wp, dp = min(missing, key=str)
            raise InvalidModel(
                f"Stage {stage} of {source} lacks the file of rank tp {tp}, wp {wp}, dp {dp}.", "Finish the download."
            )
    return [stages[pp] for pp in sorted(stages)]


def _parse(path: Path) -> Part | None:
    match = _NAME.fullmatch(path.name)
    if match is None or (match["tp"] is None and match["wp"] is None):
        return None
    tp, wp, pp, dp = (None if match[kind] is None else int(match[kind]) for kind in ("tp", "wp", "pp", "dp"))
    assert pp is not None
    return Part(path=path, tp=tp, wp=wp, pp=pp, dp=dp)


def _check_ranks(source: Path, kind: str, found: Collection[int | None]) -> None:
    if None in found and len(found) > 1:
        raise InvalidModel(
            f"{source} mixes files with and without a {kind} rank: those of two checkpoints.",
            "Put each checkpoint into a directory of its own.",
        )
    ranks = {rank for rank in found if rank is not None}
    if missing := set(range(len(ranks))) - ranks:
        raise InvalidModel(f"{source} has no file of {kind} rank {min(missing)}.", "Finish the download.")
