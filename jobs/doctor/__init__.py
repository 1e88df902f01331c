"""Checks of `jobs doctor` on this machine and on the cluster's nodes."""
