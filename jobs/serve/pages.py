"""Pages of lists, as OpenAI's cursors ask for them."""

from __future__ import annotations

from collections.abc import Iterable


def page_of(ids: Iterable[str], *, after: str | None, newest_first: bool) -> list[str]:
    """The ids that follow `after`, in order. The cursor itself may be gone meanwhile."""
    ordered = sorted(ids, reverse=newest_first)
    if after is None:
        return ordered
    return [each for each in ordered if (each < after if newest_first else each > after)]
