"""Fixtures that every kind of test may use, and how tests share processes."""

from __future__ import annotations

import os
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

VLLM = (
    "test_engine_vllm.py",
    "test_fidelity.py",
    "test_fidelity_plugin.py",
    "test_fidelity_demo.py",
    "test_job_vllm.py",
    "test_job_forms_vllm.py",
    "test_lm_eval.py",
    "test_readme.py",
)
"""Files whose tests compute with vLLM. Two engines at once on two cores take far more than twice as long."""

# Threads of an engine that wait for each other must not spin while another process needs the core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """With several processes (`-n 2`), tests of a file share one, and so do all that compute with vLLM."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "vLLM" if PurePath(file).name in VLLM else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Used by pytest-xdist in place of its own."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first. What needs no waiting, the unit tests, comes last and fills the gaps."""
    items.sort(key=lambda item: item.path.name not in VLLM)
