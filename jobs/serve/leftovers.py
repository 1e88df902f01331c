"""Removes expired files, and parts that killed servers left of files that were never published."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from jobs.serve.batches import Batches
from jobs.serve.files import Files
from jobs.store.base import ObjectStore
from jobs.store.local import LocalStore
from schemas.batches import FILE_ID, FILES, Outcome, batch_of

UNTOUCHED_S = 24 * 3600.0
"""Parts that no record refers to are removed this long after the last one was written. No upload takes that long
between two parts, and no two machines' clocks are that far apart."""

KEPT_S = 3600.0
"""An expired file stays this long for batches that were created just before and are not seen yet."""


class Leftovers:
    """Clears the folder of files. Any number of servers may do so side by side."""

    def __init__(self, store: ObjectStore, files: Files, batches: Batches) -> None:
        self._store, self._files, self._batches = store, files, batches
        self._expires_at: dict[str, int | None] = {}

    def clear(self, in_use: AbstractSet[str]) -> None:
        """Remove expired files and orphaned parts.

        Args:
            in_use: files that batches are still reading.

        Raises:
            StoreError: the store cannot be reached; the next call goes on.
        """
        now = time.time()
        written_at: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        keys: dict[tuple[str, str], list[str]] = defaultdict(list)
        for each in self._store.list(FILES):
            file_id, _, rest = each.key.removeprefix(FILES).partition("/")
            run = rest.partition("/")[0] if "/" in rest else ""
            if FILE_ID.fullmatch(file_id):
                keys[file_id, run].append(each.key)
                written_at[file_id][run] = max(written_at[file_id][run], each.modified_at.timestamp())
        for file_id, runs in written_at.items():
            exists = runs.pop("", None) is not None
            if exists and self._is_over(file_id, now) and file_id not in in_use:
                if (file := self._files.find(file_id, expired=True)) is not None:
                    self._files.delete(file)
                continue
            old = [run for run, at in runs.items() if now - at > UNTOUCHED_S]
            if old and (not exists or len(runs) > 1):
                self._clear_runs(file_id, {run: keys[file_id, run] for run in old})
        if isinstance(self._store, LocalStore):
            _clear_folders(Path(self._store.uri) / FILES, now - UNTOUCHED_S)

    def _is_over(self, file_id: str, now: float) -> bool:
        if file_id not in self._expires_at:
            file = self._files.find(file_id, expired=True)
            self._expires_at[file_id] = file.expires_at if file else None
        expires_at = self._expires_at[file_id]
        return expires_at is not None and now >= expires_at + KEPT_S

    def _clear_runs(self, file_id: str, runs: dict[str, list[str]]) -> None:
        """Remove parts of writers that died. Parts of a batch that has not ended stay: its outcome may name them."""
        batch_id = batch_of(file_id)
        if batch_id is not None and self._batches.read(batch_id, "done", Outcome) is None:
            return
        # Read after the parts were listed: a file is published after all of its parts are written.
        file = self._files.find(file_id, expired=True)
        for run, keys in runs.items():
            if file is None or run != file.run:
                for key in keys:
                    self._store.delete(key)


def _clear_folders(files: Path, before: float) -> None:
    """Remove folders without an object: empty ones, and those with part of an object that a killed writer left."""
    for folder in [*files.glob("*/*/"), *files.glob("*/")]:
        with suppress(OSError):
            inside = list(folder.iterdir())
            newest = max(path.stat().st_mtime for path in [folder, *inside])
            if all(path.name.startswith(".") and path.is_file() for path in inside) and newest < before:
                shutil.rmtree(folder)
