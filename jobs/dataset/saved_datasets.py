"""Directories that the `datasets` library has saved: a record, and Arrow files that it names.

Other Arrow files may lie beside them, which the library keeps as a cache of results; they are not data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jobs.errors import InvalidInput
from jobs.text import printable

MAX_BYTES = 16 * 2**20
"""Most bytes of a record."""

_SAVED, _SPLITS = "state.json", "dataset_dict.json"


def record_in(names: Iterable[str]) -> str | None:
    """Return the record's name, if these are the names in a saved dataset."""
    there = set(names)
    if _SPLITS in there:
        return _SPLITS
    return _SAVED if {_SAVED, "dataset_info.json"} <= there else None


def files_of(root: str, name: str, record: bytes) -> list[str] | None:
    """Return the names of the data files, in order; None if the record is not one of that library.

    Raises:
        InvalidInput: the directory has several splits, or a record that names what lies elsewhere.
    """
    try:
        said: Any = json.loads(record)
    except (ValueError, RecursionError):
        return None
    if name == _SPLITS:
        splits = said.get("splits") if isinstance(said, dict) else None
        if not isinstance(splits, list) or not splits or not all(isinstance(each, str) for each in splits):
            return None
        shown = [printable(each[:80]) for each in splits]
        raise InvalidInput(
            f"{root} is a saved dataset with the splits {', '.join(shown)}, and a job runs one of them.",
            f"Name it: {root.rstrip('/')}/{shown[0]}",
        )
    files = said.get("_data_files") if isinstance(said, dict) else None
    if not isinstance(files, list):
        return None
    found = [entry.get("filename") if isinstance(entry, dict) else None for entry in files]
    if not found or not all(isinstance(each, str) and each and "/" not in each and each != ".." for each in found):
        raise InvalidInput(
            f"{root}/{name} does not name files of that directory.", "Save the dataset again: save_to_disk(…)."
        )
    return [str(each) for each in found]
