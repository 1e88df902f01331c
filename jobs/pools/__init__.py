"""Pools: engines that stay loaded and compute rows of several jobs at once."""
