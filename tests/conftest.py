"""Fixtures that every kind of test may use."""

from __future__ import annotations

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.support.s3 import s3_bucket, s3_proxy, s3_server

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

__all__ = ["s3_bucket", "s3_proxy", "s3_server"]


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """With several processes (`-n 2`), tests of a file share one, and so do all that start vLLM: that is slow."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "vllm" if "vllm" in file or "fidelity" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Used by pytest-xdist in place of its own."""
    return Scheduling(config, log)
