"""The shell function, in the real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = {"bash": ["--norc", "--noprofile", "-c"], "zsh": ["-f", "-c"]}


@pytest.fixture(params=sorted(FLAGS))
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def run(shell: str, script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    prepare = f'eval "$({sys.executable} -P -m jobs shell-init {shell})"\n'
    return subprocess.run(
        [shell, *FLAGS[shell], prepare + script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "JOBS_STATE_DIR": str(cwd / "state"), "XDG_DATA_HOME": str(cwd)},
        check=False,
    )


def test_known_command_reaches_the_program(shell: str, tmp_path: Path) -> None:
    # A folder of the same name must not be taken for the program.
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").touch()
    ended = run(shell, "jobs config -q && jobs --version", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "root"
    assert ended.stdout.splitlines()[-1].startswith("nightbatch ")


def test_arguments_and_exit_code_pass_through(shell: str, tmp_path: Path) -> None:
    ended = run(shell, "jobs cluster status; echo code=$?; jobs doctor --root 's3:// a b'; echo code=$?", tmp_path)
    assert "code=4\n" in ended.stdout
    assert "'s3:// a b'" in ended.stderr or "s3:// a b" in ended.stdout


def test_builtin_still_lists_background_work(shell: str, tmp_path: Path) -> None:
    listed = run(shell, "sleep 20 & jobs; jobs -l; kill $!", tmp_path).stdout
    assert listed.count("sleep 20") == 2
    assert "unning" in listed or "running" in listed


def test_doctor_notices_the_function(shell: str, tmp_path: Path) -> None:
    assert "bare `jobs` reaches this program" in run(shell, "jobs doctor", tmp_path).stdout
    without = f"unset -f jobs; {sys.executable} -P -m jobs doctor"
    assert "the shell's own command" in run(shell, without, tmp_path).stdout


def test_other_shells_are_refused(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "jobs", "shell-init", "tcsh"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "bash, zsh, fish" in ended.stderr
