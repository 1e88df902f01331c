"""Optional libraries that read some kinds of input, imported only where one is found."""

from __future__ import annotations

import importlib
from typing import Any

from jobs.errors import MissingPackage

_EXTRAS = {"deltalake": "delta", "pyiceberg": "iceberg", "obstore": "cloud"}


def library(module: str, what: str) -> Any:
    """Import the library that reads a kind of input.

    Args:
        what: the input, for the error.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise MissingPackage(
            f"{what} needs the package {name!r}, which this Python cannot import.",
            f"Install it: `pip install 'nightbatch[{_EXTRAS[name]}]'`, here and where drivers run.",
        ) from error
