"""The process of a driver: it wires driver and replica together on Ray."""

from __future__ import annotations

import logging
import sys
import threading

import ray

from jobs import __version__
from jobs.errors import Exit
from jobs.ledger import Ledger
from jobs.pools.book import PoolBook
from jobs.pools.names import namespace_of
from jobs.starting import StartClock
from jobs.values.arrow import leave_pandas_out
from workers.driver.cluster import Cluster
from workers.driver.entry import main
from workers.driver.pooled import PooledCluster
from workers.driver.ray_cluster import RayCluster
from workers.driver.ray_link import RayLink
from workers.driver.resources import seat_resources
from workers.messages import Ticket
from workers.replica.replica import Replica

DISCONNECT_S = 5.0


def drive(job_uri: str, starting: StartClock | None = None) -> int:
    """Run the job; return the exit code that Ray is to see. The process should end then, whatever threads are left.

    Args:
        starting: measures the driver's start; None begins with this process.
    """
    leave_pandas_out()
    code = main(job_uri, connect, starting=starting)
    sys.stdout.flush()
    if code in (Exit.OK, Exit.GATE_CROSSED):  # otherwise the last line printed must stay the last one
        disconnect()
    return code


def connect(ledger: Ledger, driver: str) -> Cluster:
    """Join the cluster that this process runs on, and the pool that the job is to compute in."""
    ray.init(namespace=f"{ledger.job_id}/{driver}", logging_level=logging.WARNING)
    own = RayCluster(Replica)
    if (placement := ledger.placement()) is None:
        return own
    root = ledger.store.uri
    ticket = Ticket(root=root, job_id=ledger.job_id, driver=driver, placement=placement, version=__version__)
    link = RayLink(namespace_of(root, placement.pool))
    return PooledCluster(own, link, ticket, PoolBook(ledger.store), seat_resources)


def disconnect() -> None:
    """Leave the cluster in order: calls whose end Ray has not been told of would count as failed tasks."""
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(DISCONNECT_S)
