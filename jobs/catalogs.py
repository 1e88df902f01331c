"""Iceberg catalogs, through `pyiceberg` (extra `iceberg`), by the names that it knows where this runs.

They stand in `.pyiceberg.yaml`, or in variables `PYICEBERG_CATALOG__NAME__…`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from jobs.errors import StoreError, UsageError
from jobs.packages import failed_import

_TOLD_CHARS = 300
_SECRET = re.compile(
    r"(?P<what>://|\b(?:sig|signature|x-amz-[\w-]+|[\w-]*token|[\w-]*password|[\w-]*secret[\w-]*|credential)=)"
    r"(?:(?<=://)[^/\s@]+(?=@)|(?<==)[^&\s'\",)]+)",
    re.IGNORECASE,
)
"""Users and passwords in addresses, and signatures and tokens behind them."""


def open_catalog(name: str, hint: str) -> Any:
    """Load a catalog by its name.

    Args:
        hint: what to do where it cannot be reached.

    Raises:
        MissingPackage: pyiceberg, or what it needs for this catalog, is not installed.
        UsageError: it is not configured here.
        StoreError: it cannot be reached.
    """
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError as error:
        raise failed_import(error) from error
    try:
        # A catalog's own configuration comes first: it may know a store of its own.
        return load_catalog(name, **{**_store_of_environment(), **_configured(name)})
    except ImportError as error:
        raise failed_import(error) from error
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"The Iceberg catalog {name!r} is not configured where this runs.",
            f"Name its address in .pyiceberg.yaml there, or in PYICEBERG_CATALOG__{name.upper()}__URI.",
        ) from error
    except Exception as error:
        raise StoreError(f"The Iceberg catalog {name!r} cannot be reached: {told(error)}.", hint) from error


def told(error: Exception) -> str:
    """Return a library's error as the end of a sentence, on one line. It may quote a row: that part is left out."""
    text = " ".join(str(error).split()).partition("violated by")[0]
    text = _SECRET.sub(r"\g<what>…", text)
    text = text if len(text) <= _TOLD_CHARS else f"{text[:_TOLD_CHARS]} …"
    return text.rstrip(". ") or type(error).__name__


def _store_of_environment() -> Mapping[str, str]:
    """Return the store that the environment names; the library would ask AWS itself for a bucket's region."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else None)
    found = {"s3.endpoint": endpoint, "s3.region": region}
    return {key: value for key, value in found.items() if value}


def _configured(name: str) -> Mapping[str, Any]:
    from pyiceberg.utils.config import Config

    return Config().get_catalog_config(name) or {}
