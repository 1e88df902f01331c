"""Errors tell clients nothing about the server's files, machines and command line."""

from __future__ import annotations

import pytest

from jobs.errors import ClusterError, Conflict, JobsError, StoreError, UsageError
from jobs.serve.errors import for_clients, of_jobs_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The engine died.", "The engine died."),
        ("The url must be /v1/completions.", "The url must be /v1/completions."),
        ("The engine died. See why with: jobs logs batch-1", "The engine died."),
        ("Model /home/ada/models/x has no config. Give another.", "Give another."),
        ("Cannot read s3://bucket/key. It is away.", "It is away."),
        ("It failed in C:\\models\\x.", "-"),
        ("Set JOBS_ROOT. Or drop --root.", "-"),
        ("Run `ray up`!", "-"),
        ("No answer from head-1:8265. No answer from 10.0.0.7.", "-"),
        ('  File "worker.py", line 3\nOut of memory: 3 GiB wanted', "Out of memory: 3 GiB wanted"),
        ("", "-"),
    ],
)
def test_sentences_about_the_server_are_left_out(text: str, shown: str) -> None:
    assert for_clients(text, "-") == shown


@pytest.mark.parametrize("kind", [StoreError, ClusterError, Conflict, UsageError, JobsError])
def test_no_error_shows_its_hint_or_a_path(kind: type[JobsError]) -> None:
    shown = of_jobs_error(kind("Cannot use /home/ada/x: it is away.", "Check it with: jobs doctor"))
    assert "ada" not in str(shown)
    assert "doctor" not in str(shown)
    assert len(str(shown)) > 20
