"""What a pool tells a driver's process that waits for a job."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

MAX_ORDER = 1 << 18


@dataclass(frozen=True, slots=True)
class Order:
    """What a pool tells a driver that waits.

    Attributes:
        cluster: address of the cluster, as in the claim.
        environment: what to add to the process's own environment.
        output: file to print to: Ray's log of the submission.
    """

    job_uri: str
    submission_id: str
    cluster: str
    environment: dict[str, str]
    output: str

    def send(self, channel: socket.socket, driver: int) -> None:
        """Give the order, with the claim's open file."""
        socket.send_fds(channel, [json.dumps(asdict(self)).encode()], [driver])


def receive(channel: socket.socket) -> tuple[Order, int] | None:
    """Wait for an order; None if none will come."""
    data, files, _, _ = socket.recv_fds(channel, MAX_ORDER, 1)
    if not data:
        return None
    told: dict[str, Any] = json.loads(data)
    return Order(**told), files[0]
