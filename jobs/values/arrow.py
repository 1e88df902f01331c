"""Set-up of Arrow in a process of ours."""

from __future__ import annotations

import sys

import pyarrow as pa


def leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas as it makes its first array: that takes a fifth of a second of CPU time.

    For processes of our own, which give Arrow no pandas object. `to_pandas` and `from_pandas` work as ever, and from
    then on pyarrow knows pandas' objects.
    """
    sys.meta_path.insert(0, _WithoutPandas)
    try:
        pa.array(())  # pyarrow looks for pandas once, and goes without if it finds none
    finally:
        sys.meta_path.remove(_WithoutPandas)


class _WithoutPandas:
    """Finder of modules that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
