"""What a cluster says of itself when `jobs doctor` asks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.base import Document


class NodeReport(Document):
    """One node.

    Attributes:
        versions: of `nightbatch`, `ray` and `python`.
        has_model: whether the model directory is there; None if none was asked for.
        gpus: `jobs.doctor.gpus.Gpu` of each.
        lacks: distributions of the base installation that are missing.
        has_vllm: whether vLLM is installed; None: the node's version does not tell.
    """

    node: str
    versions: dict[str, str]
    has_model: bool | None
    gpus: tuple[dict[str, Any], ...]
    lacks: tuple[str, ...] = ()
    has_vllm: bool | None = None


class ClusterReport(Document):
    """All nodes, and the object store as the cluster sees it.

    Attributes:
        store_fault: why jobs could not use it; "" if they can.
        faults: why the check could not run on a node, by the node's name.
    """

    nodes: tuple[NodeReport, ...]
    store_fault: str
    store_fix: str
    faults: dict[str, str] = Field(default_factory=dict)


MARK = "nightbatch-report: "
"""Begins the line of the report: Ray prints lines of its own around it."""
