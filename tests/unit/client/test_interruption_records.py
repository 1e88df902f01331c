"""Why a job is interrupted: the driver's own word, the cluster's, and which of them is the latest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.cluster.submission import Submission
from jobs.status.interruptions import by_cluster, why
from jobs.store.base import ObjectInfo
from schemas.codes import InterruptionCode
from schemas.markers import MARK
from schemas.records import Interruption, Progress

AT = datetime(2026, 3, 1, tzinfo=UTC)
FAILED_WITH = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}"


def ended(name: str = "d", after_s: float = 0.0, **values: Any) -> Submission:
    given = {"status": "FAILED", "message": "", "exit_code": None, "error_type": ""} | values
    at = (AT + timedelta(seconds=after_s)).timestamp()
    return Submission(submission_id=name, started_at=at - 10, ended_at=at, metadata={}, **given)


def said(driver: str, after_s: float = 0.0) -> tuple[ObjectInfo, Interruption]:
    own = Interruption(driver=driver, code=InterruptionCode.STORE_UNAVAILABLE, reason=f"{driver}: disk full")
    return ObjectInfo(key="k", size_bytes=1, modified_at=AT + timedelta(seconds=after_s)), own


def progress(driver: str, after_s: float) -> tuple[Progress, ObjectInfo]:
    words = Progress(driver=driver, updated_at="whenever", started_at="whenever", phase="running")
    return words, ObjectInfo(key="p", size_bytes=1, modified_at=AT + timedelta(seconds=after_s))


@pytest.mark.parametrize(
    ("submission", "code", "words"),
    [
        (
            {"message": FAILED_WITH.format(1, "python: No module named 'workers'"), "exit_code": 1},
            "DRIVER_NOT_STARTED",
            "no nightbatch",
        ),
        (
            {
                "message": FAILED_WITH.format(1, "ModuleNotFoundError: No module named 'jobs.status.liveness'"),
                "exit_code": 1,
            },
            "DRIVER_NOT_STARTED",
            "another version",
        ),
        (
            {
                "message": FAILED_WITH.format(1, "prompt: canary\nModuleNotFoundError: No module named 'boto3'\nbye"),
                "exit_code": 1,
            },
            "DRIVER_NOT_STARTED",
            "lacks the package boto3",
        ),
        ({"message": "…", "exit_code": 127}, "DRIVER_NOT_STARTED", "no `python`"),
        ({"message": FAILED_WITH.format(-9, ""), "exit_code": -9}, "DRIVER_LOST", "killed (SIGKILL)"),
        ({"message": FAILED_WITH.format(-9, "")}, "DRIVER_LOST", "exit code -9"),
        ({"message": FAILED_WITH.format(137, ""), "exit_code": 137}, "DRIVER_LOST", "killed (SIGKILL)"),
        ({"message": "", "exit_code": -4}, "DRIVER_LOST", "signal 4"),
        ({"message": "", "status": "STOPPED"}, "STOPPED", "stopped through Ray"),
        ({"message": "runtime_env setup failed: no uv"}, "DRIVER_NOT_STARTED", "environment"),
        (
            {"message": "", "error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"},
            "DRIVER_NOT_STARTED",
            "did not place it",
        ),
        ({"message": "Unexpected error occurred: the actor died"}, "DRIVER_LOST", "node that ran the driver"),
        (
            {"message": FAILED_WITH.format(1, "prompt: canary\nImportError: libcuda.so\nbye"), "exit_code": 1},
            "UNEXPECTED",
            "Its last error: ImportError: libcuda.so",
        ),
        ({"status": "SUCCEEDED", "exit_code": 0}, "UNEXPECTED", "exited before the job had ended"),
    ],
)
def test_the_clusters_record_of_an_end(submission: dict[str, Any], code: str, words: str) -> None:
    found = by_cluster(ended(**submission), "demo")
    assert found.code == code
    assert words in found.reason
    assert "canary" not in found.reason
    assert "jobs resume demo" in found.hint


def test_a_driver_that_could_not_write_to_the_store_says_so_in_its_last_line() -> None:
    own = said("d")[1]
    message = FAILED_WITH.format(4, f"noise\n{MARK}{own.model_dump_json()}\n")
    assert by_cluster(ended(message=message, exit_code=4), "demo") == own
    cut = FAILED_WITH.format(4, f"{MARK}{own.model_dump_json()[:20]}")
    assert by_cluster(ended(message=cut, exit_code=4), "demo").code == "UNEXPECTED"


def test_the_latest_drivers_end_counts() -> None:
    nothing: tuple[None, None] = (None, None)
    first, second = said("d1", 0), said("d2", 60)
    killed = ended("d3", 120, exit_code=-9)
    assert why([first, second], [], *nothing, job_id="j").driver == "d2"
    assert why([first, second], [ended("d2", 60), ended("d1", 0)], *nothing, job_id="j") == second[1]
    assert "killed" in why([first, second], [killed, ended("d2", 60)], *nothing, job_id="j").reason
    assert why([first, second], [ended("d0", -60, exit_code=-9)], *nothing, job_id="j") == second[1], "it is elsewhere"
    assert why([first], [], *progress("d1", -5), job_id="j") == first[1]
    # A later driver has worked and is gone: the reason of the one before it is not its own.
    gone = why([first], [], *progress("d9", 5), job_id="j")
    assert (gone.driver, gone.code) == ("d9", "DRIVER_LOST")
    assert "without a report" in gone.reason
    assert "jobs resume j" in gone.hint
    assert why([], [], *nothing, job_id="j").code == "DRIVER_LOST"
