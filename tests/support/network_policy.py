"""An evaluator of NetworkPolicies, as far as `deploy/` uses them: selectors by labels, numbered ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One end of a connection: the labels of a pod and the name of its namespace."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str


def admits(policy: dict[str, Any], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Say whether the policy lets a connection out of the source and into the target, where it selects them."""
    home, spec = policy["metadata"]["namespace"], policy["spec"]
    out = not _selected(policy, source) or _any(spec["egress"], "to", target, home, port, protocol)
    return out and (not _selected(policy, target) or _any(spec["ingress"], "from", source, home, port, protocol))


def _selected(policy: dict[str, Any], pod: Peer) -> bool:
    return pod.namespace == policy["metadata"]["namespace"] and _match(policy["spec"]["podSelector"], pod.labels)


def _any(rules: list[dict[str, Any]], end: str, peer: Peer, home: str, port: int, protocol: str) -> bool:
    return any(
        (end not in rule or any(_is(each, peer, home) for each in rule[end]))
        and ("ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"])
        for rule in rules
    )


def _is(allowed: dict[str, Any], peer: Peer, home: str) -> bool:
    """Without a namespaceSelector only pods of the policy's own namespace are meant."""
    if "namespaceSelector" in allowed:
        if not _match(allowed["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != home:
        return False
    return _match(allowed.get("podSelector", {}), peer.labels)


def _match(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "the evaluator knows matchLabels alone"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
