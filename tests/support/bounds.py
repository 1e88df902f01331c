"""Bounds on time that hold on a loaded machine, too."""

from __future__ import annotations

import os

LOADED_S = 15.0
"""Added to bounds on time: what a loaded machine may add. What the tests look for takes a minute or more."""


def loaded_s() -> float:
    """Return what to add to a bound that tells more when it is tight: nothing while the machine has cores to spare."""
    return LOADED_S if os.getloadavg()[0] > len(os.sched_getaffinity(0)) else 0.0
