"""Merging tables with interleaved rows into row order, within a fixed amount of memory."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs import signals
from jobs.errors import JobsError

_NARROWER = 16
"""Number of parts into which a window is divided if its rows exceed the memory."""

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(slots=True)
class _Run:
    """A table sorted by row id. Its rows before `start` have been handed out."""

    row_ids: npt.NDArray[np.int64]
    table: pa.Table
    size_bytes: int
    start: int = 0

    @classmethod
    def of(cls, table: pa.Table) -> _Run:
        # A slice keeps the whole table in memory, so it counts with the whole table's size.
        return cls(table["row_id"].to_numpy(), table, table.get_total_buffer_size())

    def take(self, below: int) -> pa.Table:
        """Hand out the remaining rows with ids smaller than `below`."""
        stop = int(np.searchsorted(self.row_ids, below))
        taken = self.table.slice(self.start, stop - self.start)
        self.start = stop
        return taken

    @property
    def left(self) -> npt.NDArray[np.int64]:
        """Ids of the rows not yet handed out."""
        return self.row_ids[self.start :]


class RowMerger:
    """Takes tables with a column `row_id`, each sorted by it, and hands their rows out window by window.

    Window `w` has the row ids from `w * window_rows` up to the next window's first. Rows wait in memory for their
    window; if they exceed `memory_bytes`, they are spilled to one file per window in a temporary directory, with one
    file open at a time. Each row is written there at most a few times, however many tables there are.

    Raises (all methods):
        JobsError: the temporary directory cannot be used.
    """

    def __init__(self, *, window_rows: int, memory_bytes: int) -> None:
        self._window_rows, self._memory_bytes = window_rows, memory_bytes
        self._runs: list[_Run] = []
        self._spilled: defaultdict[int, int] = defaultdict(int)  # windows and their bytes
        self._directory: Path | None = None
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def add(self, table: pa.Table) -> None:
        """Add rows. None of them may belong to a window that has been handed out."""
        if table.num_rows:
            self._runs.append(_Run.of(table))
        if sum(run.size_bytes for run in self._runs) > self._memory_bytes:
            self._spill()

    @property
    def first_window(self) -> int | None:
        """The first window that has rows, or None if all rows have been handed out."""
        windows = [int(run.left[0]) // self._window_rows for run in self._runs]
        return min([*windows, *self._spilled], default=None)

    def take(self, window: int) -> Iterator[pa.Table]:
        """Hand out a window's rows in row order. Windows must be taken in ascending order.

        The rows come in one table, or in several if they exceed the memory.
        """
        if self._spilled.get(window, 0) > self._memory_bytes and self._window_rows > 1:
            yield from self._narrowed(window)
            return
        pieces = [run.take((window + 1) * self._window_rows) for run in self._runs]
        self._runs = [run for run in self._runs if len(run.left)]
        pieces = [piece for piece in pieces if piece.num_rows]
        in_order = len(pieces) < 2 and window not in self._spilled
        if window in self._spilled:
            pieces += self._unspilled(window)
        if not pieces:
            return
        table = pa.concat_tables(pieces)
        yield table if in_order else table.combine_chunks().sort_by("row_id")

    def _narrowed(self, window: int) -> Iterator[pa.Table]:
        """Hand out a window's rows in row order, by smaller windows inside it."""
        rows = max(1, self._window_rows // _NARROWER)
        with RowMerger(window_rows=rows, memory_bytes=self._memory_bytes) as inner:
            for run in self._runs:
                inner.add(run.take((window + 1) * self._window_rows))
            self._runs = [run for run in self._runs if len(run.left)]
            for table in self._unspilled(window):
                inner.add(table)
            while (first := inner.first_window) is not None:
                yield from inner.take(first)

    def _spill(self) -> None:
        """Move every waiting row to the file of its window."""
        windows: defaultdict[int, list[pa.Table]] = defaultdict(list)
        for run in self._runs:
            found, starts = np.unique(run.left // self._window_rows, return_index=True)
            stops = [*starts[1:].tolist(), len(run.left)]
            for window, start, stop in zip(found.tolist(), starts.tolist(), stops, strict=True):
                windows[window].append(run.table.slice(run.start + start, stop - start))
        try:
            for window, pieces in windows.items():
                self._append(window, pieces)
        except OSError as error:
            raise _no_room(error) from error
        self._runs = []

    def _append(self, window: int, pieces: Iterable[pa.Table]) -> None:
        table = pa.concat_tables(pieces).combine_chunks()
        with (
            open(self._path(window), "ab") as file,
            pa.ipc.new_stream(file, table.schema, options=_COMPRESSED) as stream,
        ):
            stream.write_table(table)
        self._spilled[window] += table.nbytes

    def _unspilled(self, window: int) -> Iterator[pa.Table]:
        """Yield a window's rows from its file. Each table has rows of several runs, so it is sorted by row id here."""
        try:
            with open(self._path(window), "rb") as file:
                while file.peek(1):
                    yield pa.ipc.open_stream(file).read_all().sort_by("row_id")
            self._path(window).unlink()
        except OSError as error:
            raise _no_room(error) from error
        del self._spilled[window]

    def _path(self, window: int) -> Path:
        if self._directory is None:
            with signals.at_once():
                self._directory = Path(tempfile.mkdtemp(prefix="nightbatch-results-"))
                self._ending.callback(shutil.rmtree, self._directory, ignore_errors=True)
                self._ending.enter_context(signals.leftover(partial(signals.remove_folder, self._directory)))
        return self._directory / f"{window}.arrows"


def _no_room(error: OSError) -> JobsError:
    return JobsError(
        f"Cannot use the temporary directory {tempfile.gettempdir()}: {error.strerror or error}.",
        "Putting rows in order may need as much room there as the results take; set TMPDIR to a larger disk.",
    )
