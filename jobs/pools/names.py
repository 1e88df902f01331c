"""Names under which the parts of a pool find each other on a cluster."""

from __future__ import annotations

from hashlib import sha256

from schemas.pools import POOLS

MANAGER = "pool"
"""Name of the pool's actor in the pool's namespace."""


def namespace_of(root: str, name: str) -> str:
    """Return the Ray namespace of a pool. Two roots may have pools of one name on one cluster."""
    return f"pool:{name}:{sha256(root.encode()).hexdigest()[:8]}"


def uri_of(root: str, name: str) -> str:
    """Return the address of a pool's records."""
    return f"{root}/{POOLS}{name}"
