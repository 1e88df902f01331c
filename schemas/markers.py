"""Markers of lines that one process prints for another to find."""

from __future__ import annotations

MARK = "nightbatch-interruption: "
"""Begins the last line of a driver that is interrupted: for where the store could not be written."""
