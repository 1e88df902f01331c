"""What a cluster says of itself when `jobs doctor` asks."""

from __future__ import annotations

from typing import Any

from schemas.base import Document


class NodeReport(Document):
    """One node.

    Attributes:
        versions: of `nightbatch`, `ray` and `python`.
        has_model: whether the model directory is there; None if none was asked for.
        gpus: `jobs.doctor.gpus.Gpu` of each.
    """

    node: str
    versions: dict[str, str]
    has_model: bool | None
    gpus: tuple[dict[str, Any], ...]


class ClusterReport(Document):
    """All nodes, and the object store as the cluster sees it.

    Attributes:
        store_fault: why jobs could not use it; "" if they can.
    """

    nodes: tuple[NodeReport, ...]
    store_fault: str
    store_fix: str


MARK = "nightbatch-report: "
"""Begins the line of the report: Ray prints lines of its own around it."""
