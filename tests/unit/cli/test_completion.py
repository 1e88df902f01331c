"""Completion, as a shell asks for it and in the shells themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.bounds import LOADED_S

PROGRAM = f"{sys.executable} -P -m jobs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for age, job_id in enumerate(["reviews-1", "reviews-2", "other"]):
        spec = tmp_path / "root" / job_id / "_job" / "spec.json"
        spec.parent.mkdir(parents=True)
        spec.write_text("{}")
        os.utime(spec, (time.time() - age, time.time() - age))
    (tmp_path / "root" / "reviews-no-job").mkdir()
    return tmp_path / "root"


def ask(words: str, root: str, cwd: Path) -> list[str]:
    done = subprocess.run(
        PROGRAM.split(),
        env={
            **os.environ,
            "JOBS_ROOT": root,
            "_JOBS_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_options_and_job_ids(root: Path, tmp_path: Path) -> None:
    assert ask("jobs res", str(root), tmp_path) == ["results", "resume"]
    assert sorted(ask("jobs cluster ", str(root), tmp_path)) == ["down", "status", "up"]
    assert "--max-tokens" in ask("jobs submit --max-", str(root), tmp_path)
    assert ask("jobs results rev", str(root), tmp_path) == ["reviews-1", "reviews-2"]
    assert ask("jobs cancel ", str(root), tmp_path) == ["reviews-1", "reviews-2", "other"]
    assert ask(f"jobs status --root {root} oth", "/nowhere", tmp_path) == ["other"]


def test_schedules_and_reuse(root: Path, tmp_path: Path) -> None:
    for name in ("nightly", "nightly-b", "weekly"):
        (root / "_schedules" / name).mkdir(parents=True)
        (root / "_schedules" / name / "schedule.json").write_text("{}")
    (root / "_schedules" / "nightly-deleted" / "runs").mkdir(parents=True)
    assert ask("jobs schedule show nig", str(root), tmp_path) == ["nightly", "nightly-b"]
    assert ask(f"jobs schedule run --root {root} w", "/nowhere", tmp_path) == ["weekly"]
    assert ask("jobs submit x.parquet --reuse ", str(root), tmp_path) == ["auto", "reviews-1", "reviews-2", "other"]


def test_a_store_elsewhere_is_not_asked(tmp_path: Path) -> None:
    began = time.monotonic()
    assert ask("jobs results rev", "s3://no-such-bucket/jobs", tmp_path) == []
    assert time.monotonic() - began < 20 + LOADED_S


BASH = """
COMP_WORDS=(jobs results rev); COMP_CWORD=2; COMP_LINE="jobs results rev"; COMP_POINT=${#COMP_LINE}
$(complete -p jobs | sed 's/.*-F \\([^ ]*\\) .*/\\1/') jobs rev results
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = "words=(jobs results rev); CURRENT=3; _arguments() { print -r -- $@ }; _jobs_complete"
FISH = "complete -C 'jobs results rev'"


@pytest.mark.parametrize(
    ("shell", "flags", "load", "script"),
    [
        ("bash", ["--norc", "--noprofile"], 'eval "$({} shell-init bash)"', BASH),
        ("zsh", ["-f"], 'eval "$({} shell-init zsh)"', ZSH),
        ("fish", ["--no-config"], "{} shell-init fish | source", FISH),
    ],
)
def test_under_the_shell_function(
    shell: str, flags: list[str], load: str, script: str, root: Path, tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [shell, *flags, "-c", f"{load.format(PROGRAM)}\n{script}"],
        env={**os.environ, "JOBS_ROOT": str(root), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert re.findall(r"reviews-\w+|other", done.stdout) == ["reviews-1", "reviews-2"], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_installers_own_script(shell: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM.split(), "--show-completion", shell],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_BATCHJOBS_COMPLETE" in done.stdout
