"""Datasets: from an address to pinned, sliced, readable rows."""

from jobs.dataset.columns import Columns, resolve_columns
from jobs.dataset.failures import failures_of
from jobs.dataset.guarded import inspect, read_slice
from jobs.dataset.inspection import DataFile, Dataset
from jobs.dataset.pinning import InputChanged, check_unchanged, identity, pin
from jobs.dataset.slicing import Slice, slices

__all__ = [
    "Columns",
    "DataFile",
    "Dataset",
    "InputChanged",
    "Slice",
    "check_unchanged",
    "failures_of",
    "identity",
    "inspect",
    "pin",
    "read_slice",
    "resolve_columns",
    "slices",
]
