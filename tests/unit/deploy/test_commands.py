"""Commands, flags and variables in `deploy/` are those that the program has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deploy_commands import DEPLOY, PROGRAMS, check, files, found_in, unknown_variables

COMMANDS = [
    pytest.param(words, id=f"{path.relative_to(DEPLOY)}: {' '.join(words)}")
    for path in files()
    for words in found_in(path)
    if words and words[0] in PROGRAMS
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_of_the_deployment_exist(words: list[str]) -> None:
    check(words)


def test_the_scan_sees_what_runs() -> None:
    seen = {" ".join(parameter.values[0]) for parameter in COMMANDS}  # type: ignore[arg-type]
    assert {
        "batchjobs schedule serve --address=http://nightbatch-head-svc:8265 --metrics-port=9464 --metrics-host=0.0.0.0",
        "batchjobs schedule run nightly --wait --address http://nightbatch-head-svc:8265",
        "/opt/nightbatch/bin/batchjobs cluster up",
        "batchjobs doctor --root s3://nightbatch/jobs",
        "batchjobs model verify $JOBS_MODEL",
    } <= seen
    assert any(each.startswith("batchjobs submit s3://") for each in seen)


@pytest.mark.parametrize("words", [["batchjobs", "sumbit", "x"], ["batchjobs", "submit", "x", "--replica-count", "2"]])
def test_a_wrong_command_is_noticed(words: list[str]) -> None:
    with pytest.raises(AssertionError, match=r"sumbit|replica-count"):
        check(words)


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_of_the_deployment_reach_the_program_in_any_shell(words: list[str]) -> None:
    assert Path(words[0]).name == "batchjobs", "a bare `jobs` reaches the shell's builtin"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_variables_are_settings(path: Path) -> None:
    assert unknown_variables(path) == set()


def test_dockerfiles_pass_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = sorted(str(path) for path in (DEPLOY / "docker").glob("*.Dockerfile"))
    assert len(found) == 2
    done = subprocess.run([hadolint, "--no-color", *found], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
