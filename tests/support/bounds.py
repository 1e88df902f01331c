"""Bounds on time that hold on a loaded machine, too."""

LOADED_S = 15.0
"""Added to bounds on time: what a loaded machine may add. What the tests look for takes a minute or more."""
