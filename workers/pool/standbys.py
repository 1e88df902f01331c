"""Drivers that a pool keeps ready: a job that is submitted to it has its driver before Ray has started one.

Ray takes two seconds or so to start a submission's entrypoint, which then takes another one to load. The pool sees a
submission as soon as the cluster has taken it, and gives it to a process that has loaded everything. The entrypoint
then finds its job at work (`workers.driver.claims`). Whatever goes wrong here, the entrypoint drives the job itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import socket
import subprocess
import sys

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private.ray_constants import KV_NAMESPACE_JOB
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.consts import RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES_ENV_VAR
from ray.dashboard.modules.job.common import (
    JOB_ID_METADATA_KEY,
    JOB_NAME_METADATA_KEY,
    JobInfo,
    JobInfoStorageClient,
    JobStatus,
)
from ray.dashboard.modules.job.job_log_storage_client import JobLogStorageClient

from jobs import __version__
from workers.driver.claims import Claim
from workers.driver.orders import Order

log = logging.getLogger(__name__)

LOOK_S = 0.2
"""Seconds between looks for new submissions."""

REFILL_S = 3.0
"""A driver that was given a job is replaced after so long: at first the job needs the processor more."""

RETRY_S = 30.0
"""Pause after something has gone wrong."""


def entrypoints_start_here() -> bool:
    """Return whether Ray starts the entrypoints of all submissions on this node, as it does on the head."""
    if os.environ.get(RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES_ENV_VAR, "0") == "1":
        return False
    here = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == here and HEAD_NODE_RESOURCE_NAME in node["Resources"] for node in ray.nodes())


class Standbys:
    """Keeps one driver ready, and gives it the next job of the pool.

    It belongs into the pool's own driver: what Ray has given that process, it would give a job's.

    Args:
        root, pool: root and name of the pool.
    """

    def __init__(self, root: str, pool: str) -> None:
        self._root, self._pool = root, pool
        here = ray.get_runtime_context()
        self._names = set(here.runtime_env.get("env_vars") or {})
        self._cluster = here.gcs_address
        self._gcs = ray._private.worker.global_worker.gcs_client
        self._infos = JobInfoStorageClient(self._gcs)
        self._channel: socket.socket | None = None
        self._given: dict[str, Claim] = {}

    async def run(self) -> None:
        """Serve submissions until cancelled. Never raises for another reason: jobs do without, too."""
        try:
            while True:
                try:
                    await self._serve()
                except Exception:
                    log.exception("jobs of this pool start without a driver that is ready, for a while")
                await asyncio.sleep(RETRY_S)
        finally:
            self._dismiss()

    async def _serve(self) -> None:
        known: set[str] = set()
        clock = asyncio.get_running_loop().time
        refill_at = 0.0
        while True:
            if self._channel is None and clock() >= refill_at:
                await asyncio.to_thread(self._prepare)
            if self._channel is not None and not self._waits():
                log.warning("a driver that waited has ended")
                self._dismiss()
                refill_at = clock() + RETRY_S
            ids = await self._submissions()
            for submission_id in ids - known:
                info = await self._infos.get_info(submission_id)
                if self._channel is not None and info is not None and (order := self._order(submission_id, info)):
                    self._give(order)
                    refill_at = clock() + REFILL_S
            known = ids
            await self._look_after()
            await asyncio.sleep(LOOK_S)

    async def _look_after(self) -> None:
        """Stop a driver whose submission Ray has ended before the entrypoint could tell it so."""
        for submission_id, claim in list(self._given.items()):
            info = await self._infos.get_info(submission_id)
            if claim.attended or info is None or info.status.is_terminal():
                del self._given[submission_id]
                if not claim.attended:
                    await asyncio.to_thread(claim.stop)

    async def _submissions(self) -> set[str]:
        prefix = JobInfoStorageClient.JOB_DATA_KEY_PREFIX
        keys = await self._gcs.async_internal_kv_keys(prefix.encode(), namespace=KV_NAMESPACE_JOB, timeout=30)
        return {key.decode().removeprefix(prefix) for key in keys}

    def _order(self, submission_id: str, info: JobInfo) -> Order | None:
        """Return what a driver is to be told; None if Ray must start it: another's, or not as our client submits."""
        try:
            words = shlex.split(info.entrypoint)
        except ValueError:  # somebody else's
            return None
        match words:
            case ["python", "-m", "workers.driver", job_uri, self._pool] if job_uri.startswith(f"{self._root}/"):
                pass
            case _:
                return None
        runtime_env = info.runtime_env or {}
        environment = runtime_env.get("env_vars") or {}
        on_head = not (info.entrypoint_num_cpus or info.entrypoint_num_gpus or info.entrypoint_resources)
        if info.status != JobStatus.PENDING or not on_head or set(runtime_env) - {"env_vars"}:
            return None
        if (info.metadata or {}).get("client_version") != __version__:
            return None  # the driver that waits may be of another one
        if set(environment) != self._names:  # what it must not have cannot be told from what its node has
            return None
        names = {JOB_ID_METADATA_KEY: submission_id, JOB_NAME_METADATA_KEY: submission_id}
        config = {"runtime_env": {"env_vars": environment}, "metadata": names | (info.metadata or {})}
        return Order(
            job_uri=job_uri,
            submission_id=submission_id,
            cluster=self._cluster,
            environment={**environment, RAY_JOB_CONFIG_JSON_ENV_VAR: json.dumps(config)},
            output=str(JobLogStorageClient().get_log_file_path(submission_id)),
        )

    def _prepare(self) -> None:
        """Start a driver that waits. It is nobody's child and has a session of its own: jobs outlive their pool."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "workers.driver.standby", str(its.fileno())]
        with its:
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
                start_new_session=True,
                check=True,
            )
        self._channel = ours

    def _waits(self) -> bool:
        """Return whether there is a driver that waits: its end closes its end of the channel."""
        if self._channel is None:
            return False
        try:
            return bool(self._channel.recv(1, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True

    def _give(self, order: Order) -> None:
        """Give the order to the driver that waits, unless the entrypoint was faster."""
        assert self._channel is not None
        claim = Claim(self._cluster, order.submission_id)
        if (driver := claim.take()) is None:
            return
        try:
            order.send(self._channel, driver)
        finally:
            os.close(driver)
        self._given[order.submission_id] = claim
        log.info("%s has a driver that was ready", order.submission_id)
        self._dismiss()

    def _dismiss(self) -> None:
        """Let the driver that waits, if any, go."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
