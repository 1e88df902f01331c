"""What lies beside a dataset's files and is not read, in words that a user reads once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from jobs.text import listed, printable

_MOST_NAMED = 3


@dataclass(slots=True)
class LeftOut:
    """Files that were found and left out.

    Attributes:
        empty: files of data without a byte, as writers leave them that had no row.
        hidden: names that start with `_` or `.`, such as `_SUCCESS` and `.crc` files.
        others: files of another kind than the dataset's.
        splits: splits of a dataset as its hub lays it out, which are not left out, but read together.
    """

    empty: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    splits: tuple[str, ...] = ()

    def add_empty(self, names: Iterable[str]) -> None:
        """Add empty files."""
        self.empty.extend(map(_last, names))

    def add_hidden(self, names: Iterable[str]) -> None:
        """Add names that readers skip."""
        self.hidden.extend(map(_last, names))

    def add_others(self, names: Iterable[str]) -> None:
        """Add files of another kind."""
        self.others.extend(map(_last, names))

    def join(self, other: LeftOut) -> None:
        """Add what another part of the dataset left out."""
        self.empty += other.empty
        self.hidden += other.hidden
        self.others += other.others
        self.splits = self.splits or other.splits

    def __len__(self) -> int:
        return len(self.empty) + len(self.hidden) + len(self.others)

    def sentence(self) -> str | None:
        """Return what was left out, and what was read together; None if nothing was."""
        kinds = (
            (self.empty, "empty"),
            (self.hidden, "with a name that starts with _ or ."),
            (self.others, "of another kind than the data"),
        )
        parts = [f"{len(names):,} {what} ({_some(names)})" for names, what in kinds if names]
        said = [f"Left out: {listed(parts)}."] if parts else []
        if self.splits:
            said.append(
                f"The splits {listed(self.splits)} are one dataset here; name one with a glob: '…/{self.splits[0]}-*'."
            )
        return " ".join(said) or None


_SPLIT = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.[a-z.]+")


def splits_in(names: Iterable[str]) -> tuple[str, ...]:
    """Return the splits that these names of files are of, if there are several."""
    found = dict.fromkeys(match[1] for name in names if (match := _SPLIT.fullmatch(_last(name))))
    return tuple(found) if len(found) > 1 else ()


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _some(names: list[str]) -> str:
    more = ", …" if len(set(names)) > _MOST_NAMED else ""
    return ", ".join(printable(name) for name in list(dict.fromkeys(names))[:_MOST_NAMED]) + more
