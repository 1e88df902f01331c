"""One embedded cluster and one S3 server process for all integration tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.harness import User, embedded_cluster
from tests.support.s3 import S3Server, environment

SECRETS = {
    "WEBHOOK_SECRET": "quince-secret-of-the-webhook",
    "OPENAI_API_KEY": "quince-key-of-an-api",
    "CI_DEPLOY_TOKEN": "quince-token-of-something-else",
}
"""In the environment of the cluster and of every command, as secrets are on real machines."""


@pytest.fixture(scope="session")
def cluster_env(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[dict[str, str]]:
    """A running embedded cluster that reaches the S3 server."""
    with embedded_cluster(tmp_path_factory.mktemp("state"), environment(s3_server.endpoint) | SECRETS) as env:
        yield env


@pytest.fixture
def user(cluster_env: dict[str, str], tmp_path: Path) -> User:
    """A user whose jobs live in a local directory."""
    return User(root=str(tmp_path / "root"), env=cluster_env)


@pytest.fixture
def s3_user(cluster_env: dict[str, str], s3_bucket: str) -> User:
    """A user whose jobs live in a bucket of their own; this process reads it too."""
    return User(root=f"s3://{s3_bucket}/jobs-{uuid4().hex[:6]}", env=cluster_env)
