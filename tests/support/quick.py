"""The size of tests that draw their cases: `make check` runs fewer of them than `make test`."""

from __future__ import annotations

import os

QUICK = bool(os.environ.get("QUICK_TESTS"))
"""Whether a sample is enough. `make check` sets the variable."""


def examples(most: int) -> int:
    """Return how many examples Hypothesis draws of a property that deserves `most` of them."""
    return max(10, most // 5) if QUICK else most
