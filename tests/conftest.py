"""Fixtures that every kind of test may use."""

from __future__ import annotations

import pytest

from tests.s3 import s3_bucket, s3_proxy, s3_server

__all__ = ["s3_bucket", "s3_proxy", "s3_server"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (`-n 2`), tests of a module share one, and so do all that start vLLM."""
    for item in items:
        vllm = item.get_closest_marker("vllm") is not None
        item.add_marker(pytest.mark.xdist_group("vllm" if vllm else item.nodeid.split("::")[0]))
