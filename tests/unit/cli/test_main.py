"""The program as a process: exit codes, where messages go, and how quickly it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import jobs.cli
from jobs.cli import main
from jobs.errors import ClusterError, Exit, JobsError
from jobs.shell import MARK
from jobs.store import open_store
from schemas.environment import SUBMISSION_ID
from tests.unit.results.ledgers import make_job, succeed

HEAVY = {"ray", "torch", "pyarrow", "boto3", "vllm", "transformers", "numpy"}
NOT_FOR_A_LOOK = {
    "asyncio",
    "requests",
    "urllib3",
    "urllib.request",
    "jinja2",
    "tokenizers",
    "botocore",
    "jobs.submitting",
    "jobs.spec.build",
    "jobs.spec.options",
    "jobs.dataset",
    "jobs.models",
    "jobs.planning",
    "schemas.schedules",
    "schemas.batches",
    "schemas.history",
    "schemas.pools",
    "schemas.evaluations",
}
"""What a command that looks at jobs, or at nothing, does not wait for: each took a measurable part of its time."""


def batchjobs(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_start_loads_nothing_heavy() -> None:
    code = "import sys, jobs.cli; jobs.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split())
    assert "jobs" in loaded
    assert not loaded & HEAVY


def test_start_is_quick() -> None:
    def cpu_seconds(code: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # Time on the CPU, and the best of several: other processes may be using the machine.
    assert min(cpu_seconds("import jobs.cli; jobs.cli.app") for _ in range(5)) < 0.4


def test_usage_error_is_2_and_on_stderr() -> None:
    ended = batchjobs("no-such-command")
    assert (ended.returncode, ended.stdout) == (Exit.USAGE, "")
    assert "No such command" in ended.stderr


def test_wrong_setting_is_one_sentence_and_a_hint() -> None:
    ended = batchjobs("config", JOBS_ENGINE="cuda")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr.startswith("Error: engine (environment JOBS_ENGINE) must be vllm or fake.")
    assert "Traceback" not in ended.stderr


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "config"], ["config", "--debug"]):
        ended = batchjobs(*arguments, JOBS_ENGINE="cuda")
        assert ended.returncode == Exit.USAGE
        assert "Traceback" in ended.stderr


def test_config_as_json() -> None:
    ended = batchjobs("config", "--json", JOBS_REPLICAS="2..5")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["replicas"] == {"value": "2..5", "source": "environment JOBS_REPLICAS"}


def test_misspelt_environment_variable_is_reported() -> None:
    assert "JOBS_REPLCAS is set, but no setting has that name" in batchjobs("config", JOBS_REPLCAS="2").stderr


def test_our_own_variables_are_no_mistakes() -> None:
    ours = dict.fromkeys((MARK, SUBMISSION_ID, "JOBS_STATE_DIR"), "1")
    assert "no setting has that name" not in batchjobs("config", **ours).stderr


def test_a_missing_model_is_told_without_options_that_do_not_exist(tmp_path: Path) -> None:
    ended = batchjobs("model", "prepare", str(tmp_path / "nope"), str(tmp_path / "new"))
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == f"Error: There is no model directory {tmp_path / 'nope'}.\n  Check the path.\n"


def test_output_of_a_pipe_has_no_escape_codes() -> None:
    ended = batchjobs("config", TERM="xterm-256color")
    assert "\x1b" not in ended.stdout + ended.stderr


def test_reader_that_goes_away_is_no_fault() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, complaints = process.communicate(timeout=60)
    assert complaints == ""


class _Model(BaseModel):
    count: int


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ClusterError("Gone.", hint="Look."), Exit.UNREACHABLE, "Error: Gone.\n  Look.\n"),
        (JobsError("Failed."), Exit.JOB_FAILED, "Error: Failed.\n"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
        (ZeroDivisionError("a row's text"), Exit.JOB_FAILED, "Error: Unexpected ZeroDivisionError in "),
    ],
)
def test_exceptions_become_exit_codes(
    raised: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise raised

    jobs.cli.app.command("fail-for-test", hidden=True)(fail)
    try:
        assert main(["fail-for-test"]) == code
    finally:
        jobs.cli.app.registered_commands.pop()
    assert capsys.readouterr().err.startswith(said)


def test_validation_error_lists_field_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    jobs.cli.app.command("fail-for-test", hidden=True)(lambda: print(_Model(count="secret")))  # type: ignore[arg-type]
    try:
        assert main(["fail-for-test"]) == Exit.USAGE
    finally:
        jobs.cli.app.registered_commands.pop()
    said = capsys.readouterr().err
    assert "`count` must be a whole number" in said
    assert "secret" not in said


def test_doctor_fails_on_an_unwritable_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    environment = {"JOBS_STATE_DIR": str(tmp_path / "state")}
    good = batchjobs("doctor", "--json", "--root", str(tmp_path / "root"), **environment)
    bad = batchjobs("doctor", "--json", "--root", str(tmp_path / "file" / "root"), **environment)
    levels = [{each["check"]: each["level"] for each in json.loads(ended.stdout)} for ended in (good, bad)]
    assert (levels[0]["store"], good.returncode) == ("ok", 0)
    assert (levels[1]["store"], bad.returncode) == ("fail", 1)


def test_doctor_fails_on_an_unreachable_cluster(tmp_path: Path) -> None:
    ended = batchjobs("doctor", "--json", "--root", str(tmp_path), "--address", "http://127.0.0.1:9")
    found = {each["check"]: each for each in json.loads(ended.stdout)}
    assert ended.returncode == 1
    assert found["cluster"]["level"] == "fail"
    assert "cannot be reached" in found["cluster"]["detail"]


def loaded_by(*arguments: str, **environment: str) -> set[str]:
    """Names of the modules that a process has when a command has ended well."""
    code = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]); "
        "sys.stdout.flush(); print(code, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    code_of, *modules = done.stdout.splitlines()[-1].split()
    assert code_of == "0", done.stderr
    return {*modules}


def test_a_command_loads_its_own_module_only() -> None:
    loaded = loaded_by("config", "-q")
    assert "jobs.cli.config" in loaded
    assert not {"jobs.cli.serve", "jobs.cli.schedule", "jobs.cli.submit", "jobs.cli.model"} & loaded


def test_the_overview_loads_no_documents() -> None:
    loaded = loaded_by("--help")
    assert "jobs.cli.submit" in loaded, "it says what each command is for"
    assert not loaded & {*HEAVY, *NOT_FOR_A_LOOK, "pydantic", "jobs.ledger", "jobs.packages", "jobs.results.targets"}


@pytest.mark.parametrize("arguments", [("list",), ("status", "demo"), ("list", "--json"), ("status", "latest", "-q")])
def test_a_look_at_jobs_loads_only_what_it_needs(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store = open_store(str(tmp_path / "root"))
    succeed(make_job(store, [[0, 1]], max_error_rate=1.0))
    make_job(store, [[0, 1]], job_id="second")
    loaded = loaded_by(*arguments, JOBS_ROOT=str(tmp_path / "root"), JOBS_STATE_DIR=str(tmp_path / "state"))
    assert {"jobs.ledger", "jobs.status.standing"} <= loaded
    assert not loaded & {*HEAVY, *NOT_FOR_A_LOOK, "rich.console"}
