"""Datasets: from an address to pinned, sliced, readable rows."""

from jobs.dataset.columns import Columns, resolve_columns
from jobs.dataset.failures import failures_of
from jobs.dataset.guarded import inspect, read_slice
from jobs.dataset.inspection import DataFile, Dataset
from jobs.dataset.limiting import Portion, count_rows, portions, read_portion
from jobs.dataset.pinning import InputChanged, check_unchanged, identity, pin
from jobs.dataset.slicing import Slice, slices
from jobs.dataset.uniting import shown_columns

__all__ = [
    "Columns",
    "DataFile",
    "Dataset",
    "InputChanged",
    "Portion",
    "Slice",
    "check_unchanged",
    "count_rows",
    "failures_of",
    "identity",
    "inspect",
    "pin",
    "portions",
    "read_portion",
    "read_slice",
    "resolve_columns",
    "shown_columns",
    "slices",
]
