"""Fixtures that every kind of test may use, and how tests share processes."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.support.quick import examples
from tests.support.s3 import s3_bucket, s3_proxy, s3_server

settings.register_profile("any machine", deadline=None, max_examples=examples(100))
settings.load_profile("any machine")

__all__ = ["s3_bucket", "s3_proxy", "s3_server"]

VLLM_HERE = ("test_engine_vllm.py", "test_fidelity.py", "test_fidelity_plugin.py", "test_fidelity_demo.py")
"""Start vLLM in the tests' own process, where it is imported once, or in children of it."""

VLLM_ON_RAY = ("test_job_vllm.py", "test_job_forms_vllm.py", "test_readme.py")
"""Start vLLM in the replicas of whole jobs."""

_TAKE_LONG = (*VLLM_HERE, *VLLM_ON_RAY)


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """With several processes (`-n 3`), tests of a file share one, and so do all that start vLLM in one place.

    So there are at most two tests at once that hold engines in memory, however many processes there are.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        name = PurePath(file).name
        return "vLLM here" if name in VLLM_HERE else "vLLM on Ray" if name in VLLM_ON_RAY else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Used by pytest-xdist in place of its own."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first. What needs no waiting, the unit tests, comes last and fills the gaps."""
    items.sort(key=lambda item: item.path.name not in _TAKE_LONG)
